"""Races of writers with writers and readers: nothing is doubled, lost, torn or deadlocked."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import lazyload

from tests.support.factories import (
    Sessions,
    add_job,
    add_jobs,
    add_playlist,
    ids,
    stored_track_ids,
    token_data,
)
from tests.support.faults import only_postgresql
from zotify_async_crud import crud, database
from zotify_async_crud.models import DownloadJob, Playlist, PlaylistTrack, SpotifyToken, Track
from zotify_async_crud.schemas import DownloadJobStatus

TASKS: Final = 20
VERSIONS: Final = 50
TRACKS: Final = 12
ROUNDS: Final = 5
"""How often something is tried that a bug may survive by luck."""


async def test_many_tasks_create_one_track_once(sessions: Sessions) -> None:
    """Each of them gets the track, and none an error."""

    async def get_or_create() -> str:
        async with sessions.begin() as db:
            return (await crud.get_or_create_track(db, "t", "Name")).id

    assert await asyncio.gather(*(get_or_create() for _ in range(TASKS))) == ["t"] * TASKS
    assert await count(sessions, Track) == 1


async def test_many_tasks_name_one_track_once(sessions: Sessions) -> None:
    """Of many names for a track without one, one wins, and all are told which."""
    async with sessions.begin() as db:
        await crud.get_or_create_track(db, "t")

    async def name(number: int) -> str | None:
        async with sessions.begin() as db:
            return (await crud.get_or_create_track(db, "t", f"name {number}")).name

    names = await asyncio.gather(*(name(number) for number in range(TASKS)))
    async with sessions() as db:
        assert set(names) == {(await db.get_one(Track, "t")).name}


async def test_many_logins_leave_one_whole_token(sessions: Sessions) -> None:
    """The stored access and refresh token and expiry come from one and the same writer."""

    async def log_in(number: int) -> None:
        async with sessions.begin() as db:
            await crud.create_or_update_spotify_token(db, token_of(number))

    await asyncio.gather(*(log_in(number) for number in range(TASKS)))
    assert await count(sessions, SpotifyToken) == 1
    assert await stored_token(sessions) in [whole_token(number) for number in range(TASKS)]


async def test_refreshes_and_logins_never_mix_two_logins(sessions: Sessions) -> None:
    """A refresh that keeps the refresh token never brings back one that a login has replaced."""

    async def log_in(number: int) -> None:
        async with sessions.begin() as db:
            await crud.create_or_update_spotify_token(db, token_of(number))

    async def refresh(number: int) -> None:
        async with sessions.begin() as db:
            await crud.get_spotify_token(db)
            await crud.create_or_update_spotify_token(db, token_of(number, refresh_token=None))

    await log_in(0)
    logins = [log_in(number) for number in range(1, TASKS // 2)]
    refreshes = [refresh(number) for number in range(TASKS // 2, TASKS)]
    await asyncio.gather(*logins, *refreshes)
    assert await count(sessions, SpotifyToken) == 1
    access, refresh_token, expires_at = await stored_token(sessions)
    assert refresh_token in {f"refresh-{number}" for number in range(TASKS // 2)}
    assert (access, expires_at) in {
        (access, expires_at) for access, _, expires_at in map(whole_token, range(TASKS))
    }


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "new"])
async def test_many_syncs_of_one_playlist_leave_one_of_them_whole(
    sessions: Sessions, *, exists: bool
) -> None:
    """The last one wins, with its name and all of its tracks in their order."""
    if exists:
        await add_playlist(sessions, "p", "before", ["x", "y"])
    for _ in range(2):
        await asyncio.gather(
            *(add_playlist(sessions, "p", *version(number)) for number in range(TASKS))
        )
        async with sessions() as db:
            playlist = await crud.get_playlist(db, "p")
        assert playlist is not None
        assert_whole(playlist)
        if not exists:
            async with sessions.begin() as db:
                await crud.clear_all_playlists_and_tracks(db)


async def test_syncs_of_overlapping_playlists_never_deadlock(sessions: Sessions) -> None:
    """Whatever the order of the tracks in a playlist, all syncs lock them in one order."""
    for number in range(ROUNDS):
        lists = shuffled_lists(number)
        await asyncio.gather(
            *(
                add_playlist(sessions, f"p{index}", "n", track_ids)
                for index, track_ids in enumerate(lists)
            )
        )
        for index, track_ids in enumerate(lists):
            assert await stored_track_ids(sessions, f"p{index}") == track_ids


READS: Final[dict[str, Callable[[AsyncSession], Awaitable[Playlist | None]]]] = {
    "db.get": lambda db: db.get(Playlist, "p"),
    "crud.get_playlist": lambda db: crud.get_playlist(db, "p"),
}


@pytest.mark.parametrize("read", READS)
async def test_a_reader_sees_a_playlist_before_or_after_a_replacement(
    url: str, sessions: Sessions, read: str
) -> None:
    """In READ COMMITTED, during many replacements, its name and all of its tracks fit together."""
    await add_playlist(sessions, "p", *version(0))
    engine = database.create_engine(url, read_only=True)
    readers = database.create_session_factory(engine)
    enough = asyncio.Event()
    seen: set[str] = set()
    async with asyncio.TaskGroup() as group:  # which ends the reader where the writer fails
        group.create_task(replace_until(enough, sessions))
        while len(seen) < VERSIONS:
            async with readers() as db:
                playlist = await READS[read](db)
            assert playlist is not None
            assert_whole(playlist)
            seen.add(playlist.name)
        enough.set()
    await engine.dispose()


@only_postgresql
async def test_a_reader_with_one_statement_more_sees_a_torn_playlist(sessions: Sessions) -> None:
    """The control: the tracks read by a second statement are those of another version."""
    await add_playlist(sessions, "p", *version(0))
    async with sessions() as db:
        playlist = (await db.scalars(select(Playlist).options(lazyload("*")))).one()
        await add_playlist(sessions, "p", *version(1))
        await db.refresh(playlist, ["entries"])
    assert not is_whole(playlist)


async def test_a_playlist_is_never_left_with_a_part_of_its_tracks_by_a_clear(
    sessions: Sessions,
) -> None:
    """Clears and syncs at the same time: it is there with all of its tracks, or not at all."""
    done = asyncio.Event()

    async def sync(playlist_id: str) -> None:
        for number in range(20):
            name, _ = version(number)
            await add_playlist(sessions, playlist_id, name, [f"{name}-{i}" for i in range(TRACKS)])

    async def clear() -> None:
        while not done.is_set():
            async with sessions.begin() as db:
                await crud.clear_all_playlists_and_tracks(db)

    async def look() -> None:
        while not done.is_set():
            async with sessions() as db:
                for playlist in (await db.scalars(select(Playlist))).unique():
                    assert_whole(playlist)

    async with asyncio.TaskGroup() as group:
        group.create_task(clear())
        group.create_task(look())
        syncs = [group.create_task(sync(f"p{number}")) for number in range(4)]
        await asyncio.wait(syncs)
        done.set()

    async with sessions() as db:
        for playlist in (await db.scalars(select(Playlist))).unique():
            assert_whole(playlist)
    async with sessions.begin() as db:
        await crud.clear_all_playlists_and_tracks(db)
    assert [await count(sessions, table) for table in (Playlist, Track, PlaylistTrack)] == [0, 0, 0]


async def test_a_clear_waits_for_a_sync_that_has_begun(sessions: Sessions) -> None:
    """What the sync has written is deleted whole, also what was not there before."""
    order = []

    async def clear() -> None:
        async with sessions.begin() as db:
            await crud.clear_all_playlists_and_tracks(db)
            order.append("cleared")

    async with sessions.begin() as db:
        await crud.create_or_update_playlist(db, "p", "Focus", ["b", "c"])
        clearing = asyncio.create_task(clear())
        for _ in range(100):  # a clear that would not wait has the time to finish
            await db.scalar(select(func.count()).select_from(Track))
        order.append("synced")
    await clearing
    assert order == ["synced", "cleared"]
    assert [await count(sessions, table) for table in (Playlist, Track, PlaylistTrack)] == [0, 0, 0]


async def test_many_tasks_update_their_own_jobs_and_none_is_lost(sessions: Sessions) -> None:
    """Each job ends with what its own worker wrote last."""
    job_ids = await add_jobs(sessions, TASKS)

    async def work(number: int) -> None:
        async with sessions() as db:
            job = await crud.get_download_job(db, job_ids[number])
        assert job is not None
        for step in range(5):
            async with sessions.begin() as db:
                await crud.update_download_job_status(
                    db, job, DownloadJobStatus.IN_PROGRESS, progress=step / 10
                )
        async with sessions.begin() as db:
            await crud.update_download_job_status(
                db, job, DownloadJobStatus.FAILED, error=f"error {number}", progress=number / TASKS
            )

    await asyncio.gather(*(work(number) for number in range(TASKS)))
    async with sessions() as db:
        stored = {job.job_id: job for job in await crud.get_all_download_jobs(db)}
    assert [
        (stored[job_id].status, stored[job_id].error_message, stored[job_id].progress)
        for job_id in job_ids
    ] == [(DownloadJobStatus.FAILED, f"error {number}", number / TASKS) for number in range(TASKS)]


async def test_many_tasks_update_one_job_and_the_last_one_wins_whole(sessions: Sessions) -> None:
    """Status, error and progress of the stored job come from one writer."""
    job = await add_job(sessions)

    async def write(number: int) -> None:
        async with sessions.begin() as db:
            await crud.update_download_job_status(
                db, job, DownloadJobStatus.FAILED, error=f"{number}", progress=number / TASKS
            )

    await asyncio.gather(*(write(number) for number in range(TASKS)))
    async with sessions() as db:
        stored = await db.get_one(DownloadJob, job.job_id)
    assert stored.error_message is not None
    assert stored.progress == int(stored.error_message) / TASKS


async def test_many_retries_give_each_failed_job_back_once(sessions: Sessions) -> None:
    """What each of them says that it gave back adds up to the jobs that had failed."""
    await add_jobs(sessions, 500, status=DownloadJobStatus.FAILED)

    async def retry() -> int:
        async with sessions.begin() as db:
            return await crud.retry_failed_download_jobs(db)

    assert sum(await asyncio.gather(*(retry() for _ in range(TASKS)))) == 500


async def test_a_retry_never_overwrites_a_job_that_is_picked_up_meanwhile(
    sessions: Sessions,
) -> None:
    """Pickups, failures and retries at the same time: each job is counted in one place."""
    job_ids = await add_jobs(sessions, 60, status=DownloadJobStatus.FAILED)
    completed: list[str] = []
    ends = itertools.cycle([DownloadJobStatus.FAILED, DownloadJobStatus.COMPLETED])

    async def work() -> None:
        while len(completed) < len(job_ids):
            async with sessions.begin() as db:
                job = await crud.get_next_pending_download_job(db)
                if job is not None:
                    await crud.update_download_job_status(db, job, DownloadJobStatus.IN_PROGRESS)
            if job is None:
                async with sessions.begin() as db:
                    await crud.retry_failed_download_jobs(db)
                continue
            status = next(ends)
            async with sessions.begin() as db:
                await crud.update_download_job_status(db, job, status)
            if status is DownloadJobStatus.COMPLETED:
                completed.append(job.job_id)

    async with asyncio.timeout(60):
        await asyncio.gather(*(work() for _ in range(10)))
    assert sorted(completed) == job_ids


def version(number: int) -> tuple[str, list[str]]:
    """Return a name, and tracks that bear it, of which some stand twice."""
    tracks = [f"v{number}-{position % (TRACKS - 2)}" for position in range(TRACKS)]
    return f"v{number}", tracks


def is_whole(playlist: Playlist) -> bool:
    """Tell whether name, number and order of the tracks are of one version."""
    name = playlist.name
    return ids(playlist) in (
        [f"{name}-{position % (TRACKS - 2)}" for position in range(TRACKS)],
        [f"{name}-{position}" for position in range(TRACKS)],
    )


def assert_whole(playlist: Playlist) -> None:
    """Fail with what was seen unless it is of one version."""
    assert is_whole(playlist), (playlist.name, ids(playlist))


async def replace_until(enough: asyncio.Event, sessions: Sessions) -> None:
    """Replace the playlist ``p``, each time by the next version, until it is *enough*."""
    numbers = itertools.count(1)
    while not enough.is_set():
        await add_playlist(sessions, "p", *version(next(numbers)))


def shuffled_lists(number: int) -> list[list[str]]:
    """Return ten lists of the same tracks, which no call with another *number* returns."""
    tracks = [f"round {number} track {index}" for index in range(100)]
    orders = [random.Random(f"{number} {seed}") for seed in range(10)]
    return [order.sample(tracks, len(tracks)) for order in orders]


def token_of(number: int, **changes: object) -> dict[str, object]:
    """Return token data of which each value tells *number*."""
    access, refresh, expires_at = whole_token(number)
    data = token_data(access_token=access, refresh_token=refresh, expires_at=expires_at)
    return {**data, **changes}


def whole_token(number: int) -> tuple[str, str, dt.datetime]:
    """Return the values of ``token_of`` as they are stored."""
    moment = dt.datetime(2030, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)
    return f"access-{number}", f"refresh-{number}", moment


async def stored_token(sessions: Sessions) -> tuple[str, str, dt.datetime]:
    """Return the values of the token as a new session reads them."""
    async with sessions() as db:
        token = await crud.get_spotify_token(db)
    assert token is not None
    return token.access_token, token.refresh_token, token.expires_at


async def count(sessions: Sessions, table: type[Any]) -> int:
    """Count the rows of a table."""
    async with sessions() as db:
        return (await db.execute(select(func.count()).select_from(table))).scalar_one()
