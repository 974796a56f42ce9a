"""Many tasks that sync the same playlists in different orders, while others read and delete."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tests.support.factories import Sessions, ids
from zotify_async_crud import crud
from zotify_async_crud.models import Playlist
from zotify_async_crud.schemas import PlaylistData, TrackData

SYNCING: Final = 16
PLAYLISTS: Final = ("p", "q", "r", "s", "t")
POOL: Final = [f"track-{number}" for number in range(60)]


def version(stamp: int, playlist_id: str) -> PlaylistData:
    """Return a playlist whose name tells what its tracks have to be."""
    chance = random.Random(f"{stamp} {playlist_id}")
    track_ids = chance.choices(POOL, k=chance.randrange(40))
    return PlaylistData(id=playlist_id, name=f"version {stamp}", track_ids=track_ids)


def assert_whole(playlist: Playlist) -> None:
    """Check that a playlist is one version and not a mixture."""
    stamp = int(playlist.name.removeprefix("version "))
    assert ids(playlist) == version(stamp, playlist.id).track_ids


class Storm:
    """Rages as long as *goes_on* says so, which is asked with the number of syncs until then.

    Any error that reaches a caller ends it, and so does a playlist that is read torn.
    """

    def __init__(
        self, sessions: Sessions, reading: Sessions, goes_on: Callable[[int], bool]
    ) -> None:
        self._sessions, self._reading, self._goes_on = sessions, reading, goes_on
        self._stamps = itertools.count()
        self.syncs = 0

    async def rage(self) -> None:
        """Run all tasks until the last has ended."""
        async with asyncio.TaskGroup() as tasks:
            for seed in range(SYNCING):
                tasks.create_task(self._sync(random.Random(seed)))
            for _ in range(2):
                tasks.create_task(self._disturb())
                tasks.create_task(self._read())

    async def _sync(self, chance: random.Random) -> None:
        while self._goes_on(self.syncs):
            stamp = next(self._stamps)
            chosen = chance.sample(PLAYLISTS, chance.randint(1, len(PLAYLISTS)))
            versions = [version(stamp, playlist_id) for playlist_id in chosen]
            async with self._sessions.begin() as db:
                if len(versions) == 1:
                    (only,) = versions
                    await crud.create_or_update_playlist(db, only.id, only.name, only.track_ids)
                else:
                    others_go = chance.random() < 0.2
                    await crud.sync_playlists(db, versions, remove_others=others_go)
            self.syncs += 1

    async def _disturb(self) -> None:
        for action in itertools.cycle(DISTURBING):
            if not self._goes_on(self.syncs):
                return
            async with self._sessions.begin() as db:
                await action(db)

    async def _read(self) -> None:
        while self._goes_on(self.syncs):
            async with self._reading() as db:
                for playlist in (await db.scalars(select(Playlist))).unique():
                    assert_whole(playlist)
                one = await crud.get_playlist(db, "q")
                if one is not None:
                    assert_whole(one)


DISTURBING: Final[list[Callable[[AsyncSession], Awaitable[object]]]] = [
    lambda db: crud.delete_orphan_tracks(db, limit=20),
    lambda db: crud.delete_playlist(db, "p"),
    lambda db: crud.upsert_tracks(db, [TrackData(id=track_id) for track_id in POOL[::-7]]),
    lambda db: crud.get_or_create_track(db, POOL[0], "Name"),
    crud.clear_all_playlists_and_tracks,
]
