"""Takes exports into a database, whatever their size."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from zotify_async_crud import crud
from zotify_async_crud._transactions import Sessions, transaction
from zotify_async_crud.database import translated_errors
from zotify_async_crud.importers import Imported, OnProblem, Problem, stream_export
from zotify_async_crud.models import Track
from zotify_async_crud.schemas import PlaylistData, SyncResult, TrackData

__all__ = ["ImportResult", "import_exports"]

_ENTRIES_AT_ONCE: Final = 10_000
"""Entries of playlists in one transaction, if no playlist alone has more."""


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import changed."""

    playlists: SyncResult
    tracks_created: int
    skipped: int
    """Entries that are no tracks of Spotify's: local files, episodes, audiobooks and empty ones."""


async def import_exports(
    sessions: Sessions,
    paths: Sequence[Path],
    *,
    on_problem: OnProblem | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    dry_run: bool = False,
) -> ImportResult:
    """Make the playlists in a database those of the account-data exports at *paths*.

    Give the files of one export together, or their folder: what tells playlists of one name apart
    is their order in the export.

    The exports are read twice: to check them, and then to write a few thousand entries in each
    transaction, so that memory does not grow with their size. What is known of tracks is added,
    and other playlists stay. An import that was interrupted can be made again. *on_progress* is
    told how many entries are done, and of how many. A *dry_run* does it all, and rolls it back.

    Raises:
        InvalidExport: There is no such export, or an entry is not what Spotify ships and there is
            no *on_problem* to be told of it. Nothing was written.
    """
    total = sum(map(_size, stream_export(*paths, on_problem=on_problem)))
    playlists, skipped, done = SyncResult(), 0, 0
    async with _rolled_back(sessions) if dry_run else contextlib.nullcontext(sessions) as target:
        before = await _count_tracks(target)
        # the problems have been told
        for batch in _batches(stream_export(*paths, on_problem=on_problem and _ignore)):
            playlists += await _sync(target, [part.playlist for part in batch if part.playlist])
            await _upsert(target, [track for part in batch for track in part.tracks])
            skipped += sum(part.skipped for part in batch)
            done += sum(map(_size, batch))
            if on_progress is not None:
                on_progress(done, total)
        created = await _count_tracks(target) - before
    return ImportResult(playlists, created, skipped)


def _ignore(_: Problem) -> None:
    """Have no problem."""


def _size(part: Imported) -> int:
    return part.skipped + (len(part.playlist.track_ids) if part.playlist else len(part.tracks))


def _batches(parts: Iterable[Imported]) -> Iterator[list[Imported]]:
    """Yield *parts* together in as many as one transaction takes, each playlist once in it."""
    batch: list[Imported] = []
    seen: set[str] = set()
    size = 0
    for part in parts:
        key = part.playlist.id if part.playlist else None
        if batch and (size + _size(part) > _ENTRIES_AT_ONCE or key in seen):
            yield batch
            batch, seen, size = [], set(), 0
        batch.append(part)
        size += _size(part)
        if key is not None:
            seen.add(key)
    if batch:
        yield batch


# Two transactions: a track that one transaction names, and holds until it ends, another may have to
# wait for while it holds a playlist. The names come second: between the two, others may delete the
# tracks that are in no playlist.


@transaction
async def _sync(sessions: Sessions, playlists: list[PlaylistData]) -> SyncResult:
    async with sessions.begin() as db:
        return await crud.sync_playlists(db, playlists)


@transaction
async def _upsert(sessions: Sessions, tracks: list[TrackData]) -> None:
    async with sessions.begin() as db:
        await crud.upsert_tracks(db, tracks)


@transaction
async def _count_tracks(sessions: Sessions) -> int:
    async with sessions.begin() as db:
        return await db.scalar(select(func.count()).select_from(Track)) or 0


@contextlib.asynccontextmanager
async def _rolled_back(sessions: Sessions) -> AsyncIterator[Sessions]:
    """Yield sessions whose transactions all come to nothing when the block ends."""
    with translated_errors():
        async with AsyncSession(sessions().bind) as outer:
            connection = await outer.connection()
            yield async_sessionmaker(connection, join_transaction_mode="create_savepoint")
            await outer.rollback()
