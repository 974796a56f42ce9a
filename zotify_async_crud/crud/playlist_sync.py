"""The sync of playlists: it writes what changed, and no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import _validation as check
from zotify_async_crud._statements import playlists as sql
from zotify_async_crud._statements import tracks as track_sql
from zotify_async_crud.crud._diff import Diff, diff
from zotify_async_crud.crud._locks import join_syncs, lock_out_syncs
from zotify_async_crud.crud._session import changed, database_of, execute, on_connection
from zotify_async_crud.errors import TransactionConflict
from zotify_async_crud.models import Playlist
from zotify_async_crud.schemas import PlaylistData, SyncResult


class _Header(NamedTuple):
    """What is stored of a playlist beside its tracks."""

    id: str
    name: str
    snapshot_id: str | None


class _Change(NamedTuple):
    """What is to be done with a playlist."""

    wanted: PlaylistData
    stored: _Header | None
    entries: Diff

    @property
    def is_reordered(self) -> bool:
        return any(self.entries)

    @property
    def snapshot_id(self) -> str | None:
        """The version of Spotify's that the playlist will be."""
        if self.wanted.snapshot_id is None and self.stored and not self.is_reordered:
            return self.stored.snapshot_id
        return self.wanted.snapshot_id


async def create_or_update_playlist(
    db: AsyncSession, playlist_id: str, playlist_name: str, track_ids: list[str]
) -> Playlist:
    """Create a playlist, or rename it and replace its tracks whole; missing tracks are created.

    The tracks keep the order of *track_ids*, duplicates included. Only what differs is written, and
    the number of statements does not depend on how much that is. Other transactions see the
    playlist before or after, never between; of two syncs of one playlist at the same time, the
    later to begin waits and wins.

    Raises:
        TransactionRequired: The session commits each statement, so that others would see the parts,
            or its isolation level is above READ COMMITTED, so that it would not see what the sync
            that it waited for has written.
        TransactionConflict: This transaction, or another one, consists of several such calls, and
            each of the two held what the other waited for.
    """
    database_of(db)
    wanted = check.playlist(playlist_id, playlist_name, track_ids)
    await _sync(db, [wanted], remove_others=False)
    playlist: Playlist = (await execute(db, sql.get_playlist(wanted.id))).unique().scalar_one()
    return playlist


async def sync_playlists(
    db: AsyncSession, playlists: Sequence[PlaylistData], *, remove_others: bool = False
) -> SyncResult:
    """Make each of *playlists* what it is to be, and tell what that changed.

    It is ``create_or_update_playlist`` for many at once: the number of statements depends neither
    on the number of playlists nor on that of their tracks. A playlist that has the ``snapshot_id``
    that it was last stored with is not even read. With *remove_others* the playlists that are not
    given are deleted. ``Playlist`` objects that the session has loaded before stay as they are.

    Raises:
        InvalidValue: Also when a playlist is given twice.
        TransactionRequired: The session commits each statement, so that others would see the parts,
            or its isolation level is above READ COMMITTED, so that it would not see what the sync
            that it waited for has written.
        TransactionConflict: This transaction, or another one, consists of several such calls, and
            each of the two held what the other waited for.
    """
    database_of(db)
    wanted = check.playlists(playlists)
    check.flag("remove_others", remove_others)
    if not (wanted or remove_others):
        return SyncResult()
    return await _sync(db, wanted, remove_others=remove_others)


async def _sync(
    db: AsyncSession, playlists: list[PlaylistData], *, remove_others: bool
) -> SyncResult:
    wanted = {playlist.id: playlist for playlist in sorted(playlists, key=lambda each: each.id)}
    if remove_others:
        await lock_out_syncs(db)
    await join_syncs(db)
    stored, created = await _hold(db, wanted, everything=remove_others)
    removed = sorted(stored.keys() - wanted.keys())
    if removed:
        for statement in sql.remove_playlists(database_of(db), removed):
            await execute(db, statement)
    known = {key: header for key, header in stored.items() if key not in created}
    changes = await _changes(db, wanted.values(), known)
    tracks_created = await _create_tracks(db, changes)
    await _write_entries(db, changes)
    await _write_headers(db, changes)
    return _result(changes, len(wanted), len(removed), tracks_created)


async def _hold(
    db: AsyncSession, wanted: dict[str, PlaylistData], *, everything: bool
) -> tuple[dict[str, _Header], set[str]]:
    """Hold the rows of the playlists until the transaction ends; return them, and the new ids.

    Every transaction takes its locks in one order, so that none deadlock: first new playlists by
    their ids, which wait for those of others alone, and then all of them by their ids.
    """
    database = database_of(db)
    created: set[str] = set()
    if wanted:
        insertion = sql.create_missing_playlists(database, list(wanted.values()))
        created.update((await execute(db, *insertion)).scalars())
    hold = sql.hold_all_playlists() if everything else sql.hold_playlists(database, [*wanted])
    rows = (await execute(db, hold)).all()
    stored = {row.id: _Header(row.id, row.name, row.snapshot_id) for row in rows}
    if wanted.keys() - stored.keys():
        raise TransactionConflict("a playlist was deleted by a statement of its own")
    return stored, created


async def _changes(
    db: AsyncSession, wanted: Iterable[PlaylistData], stored: dict[str, _Header]
) -> list[_Change]:
    """Return what is to be done with each playlist that differs from what is stored of it."""
    differing = [playlist for playlist in wanted if not _is_stored(playlist, stored)]
    entries = await _entries(db, [each.id for each in differing if each.id in stored])
    changes = (
        _Change(each, stored.get(each.id), diff(*entries.get(each.id, ([], [])), each.track_ids))
        for each in differing
    )
    return list(changes)


def _is_stored(playlist: PlaylistData, stored: dict[str, _Header]) -> bool:
    header = (playlist.id, playlist.name, playlist.snapshot_id)
    return playlist.snapshot_id is not None and stored.get(playlist.id) == header


async def _entries(
    db: AsyncSession, playlist_ids: list[str]
) -> dict[str, tuple[list[int], list[str]]]:
    """Return the positions and the track ids of playlists."""
    if not playlist_ids:
        return {}
    rows = (await execute(db, sql.read_entries(database_of(db), playlist_ids))).all()
    return {key: _in_order(*entries) for key, *entries in map(tuple, rows)}


def _in_order(positions: list[int], track_ids: list[str]) -> tuple[list[int], list[str]]:
    ascending = sorted(positions)
    if positions == ascending:
        return positions, track_ids
    places = dict(zip(positions, track_ids, strict=True))
    return ascending, [places[position] for position in ascending]


async def _create_tracks(db: AsyncSession, changes: list[_Change]) -> int:
    """Insert the tracks that are missing, by id, so that no two syncs deadlock; count them."""
    added = sorted({track_id for change in changes for _, track_id in change.entries.added})
    if not added:
        return 0
    return await changed(db, track_sql.create_missing_tracks(database_of(db), added))


async def _write_entries(db: AsyncSession, changes: list[_Change]) -> None:
    database = database_of(db)
    removed = [(each.wanted.id, place) for each in changes for place in each.entries.removed]
    moved = [(each.wanted.id, *places) for each in changes for places in each.entries.moved]
    added = [(*entry, each.wanted.id) for each in changes for entry in each.entries.added]
    if removed or moved or added:
        await on_connection(db, database.plan_afresh)
    if removed:
        await execute(db, *sql.remove_entries(database, removed))
    if moved:
        await execute(db, *sql.move_entries(database, moved))
    if added:
        await execute(db, *sql.add_entries(database, added))


async def _write_headers(db: AsyncSession, changes: list[_Change]) -> None:
    written = [
        each.wanted.model_copy(update={"snapshot_id": each.snapshot_id})
        for each in changes
        if each.stored
        and (each.stored.name, each.stored.snapshot_id) != (each.wanted.name, each.snapshot_id)
    ]
    if written:
        await execute(db, *sql.update_playlists(database_of(db), written))


def _result(
    changes: list[_Change], playlists: int, removed: int, tracks_created: int
) -> SyncResult:
    created = sum(each.stored is None for each in changes)
    updated = sum(
        each.stored is not None and (each.is_reordered or each.stored.name != each.wanted.name)
        for each in changes
    )
    return SyncResult(
        playlists_created=created,
        playlists_updated=updated,
        playlists_unchanged=playlists - created - updated,
        playlists_removed=removed,
        tracks_created=tracks_created,
        entries_added=sum(len(each.entries.added) for each in changes),
        entries_moved=sum(len(each.entries.moved) for each in changes),
        entries_removed=sum(len(each.entries.removed) for each in changes),
    )
