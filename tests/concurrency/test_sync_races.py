"""Races of syncs with syncs, readers and deletions."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.concurrency.sync_storm import Storm
from tests.support.factories import (
    Sessions,
    add_playlist,
    all_rows,
    playlist_data,
    stored_track_ids,
)
from tests.support.faults import apart, only_postgresql, until_waiting_for_lock
from zotify_async_crud import crud, database
from zotify_async_crud.crud import playlist_sync, tracks
from zotify_async_crud.errors import TransactionConflict, TransactionRequired
from zotify_async_crud.schemas import TrackData

Work: TypeAlias = Callable[[AsyncSession], Awaitable[object]]


async def test_overlapping_syncs_readers_and_deletions_meet_no_error(
    url: str, sessions: Sessions
) -> None:
    """No deadlock, no torn playlist, and nothing that a caller has to try again."""
    engine = database.create_engine(url, read_only=True)
    reading = database.create_session_factory(engine)
    storm = Storm(sessions, reading, lambda syncs: syncs < 300)
    try:
        async with asyncio.timeout(200):
            await storm.rage()
    finally:
        await engine.dispose()
    assert storm.syncs >= 300


@only_postgresql
async def test_several_syncs_in_one_transaction_deadlock_in_the_callers_order(
    sessions: Sessions,
) -> None:
    """The control: playlists that are held one after the other, and not by their ids."""
    both_hold_one = asyncio.Barrier(2)

    async def sync(first: str, second: str) -> None:
        async with sessions.begin() as db:
            await crud.create_or_update_playlist(db, first, "Focus", [])
            await both_hold_one.wait()
            await crud.create_or_update_playlist(db, second, "Focus", [])

    ends = await asyncio.gather(sync("p", "q"), sync("q", "p"), return_exceptions=True)
    assert [type(each) for each in ends if isinstance(each, Exception)] == [TransactionConflict]


@only_postgresql
async def test_tracks_and_their_playlist_in_one_transaction_deadlock_with_a_sync(
    url: str, sessions: Sessions
) -> None:
    """The control: each has written first what the other one needs."""

    async def end() -> None:
        await crud.sync_playlists(db, [playlist_data("p", ["a"])])
        await db.commit()

    async with sessions() as db:
        await crud.upsert_tracks(db, [TrackData(id="a", name="Name")])
        syncing = asyncio.create_task(add_playlist(sessions, "p", track_ids=["a"]))
        await until_waiting_for_lock(url)
        ends = await asyncio.gather(end(), syncing, return_exceptions=True)
    assert [type(each) for each in ends if isinstance(each, Exception)] == [TransactionConflict]


@only_postgresql
async def test_a_sync_and_a_deletion_in_one_transaction_deadlock_with_another_such_one(
    sessions: Sessions,
) -> None:
    """The control: each waits for the other's sync to end."""
    both_synced = asyncio.Barrier(2)

    async def sync_and_delete(playlist_id: str) -> None:
        async with sessions.begin() as db:
            await crud.create_or_update_playlist(db, playlist_id, "Focus", [playlist_id])
            await both_synced.wait()
            await crud.delete_playlist(db, "other")

    ends = await asyncio.gather(*map(sync_and_delete, "pq"), return_exceptions=True)
    assert [type(each) for each in ends if isinstance(each, Exception)] == [TransactionConflict]


@only_postgresql
async def test_a_sync_does_not_lose_a_track_to_the_deletion_of_orphans(
    url: str, sessions: Sessions
) -> None:
    """An orphan that a sync is about to use is none any more when its turn to be deleted comes."""
    async with sessions.begin() as db:
        await crud.get_or_create_track(db, "orphan", "Name")

    async def delete() -> int:
        async with sessions.begin() as db:
            return await crud.delete_orphan_tracks(db, limit=10)

    async with sessions.begin() as db:
        await crud.sync_playlists(db, [playlist_data("p", ["orphan"])])
        deleting = asyncio.create_task(delete())
        await until_waiting_for_lock(url)
    assert await deleting == 0
    assert await stored_track_ids(sessions) == ["orphan"]


@only_postgresql
async def test_a_playlist_that_plain_sql_deletes_in_the_middle_of_a_sync_is_a_conflict(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """The library's own deletions wait for syncs; this one is over before its row can be held."""
    await add_playlist(sessions)

    async def delete() -> None:
        async with apart(url) as other:
            await other.execute(text("DELETE FROM playlists"))

    @event.listens_for(engine.sync_engine, "after_cursor_execute")
    def after_insertion(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT INTO playlists"):
            thread = threading.Thread(target=asyncio.run, args=[delete()])
            thread.start()
            thread.join()

    with pytest.raises(TransactionConflict) as conflict:
        await add_playlist(sessions)
    assert conflict.value.retry_safe


@only_postgresql
async def test_a_playlist_that_is_deleted_while_a_sync_waits_for_it_is_there_again(
    url: str, sessions: Sessions
) -> None:
    """The sync came later."""
    await add_playlist(sessions, "p", track_ids=["a", "b"])
    async with sessions.begin() as db:
        await crud.delete_playlist(db, "p")
        syncing = asyncio.create_task(add_playlist(sessions, "p", track_ids=["b", "c"]))
        await until_waiting_for_lock(url)
    await syncing
    assert await stored_track_ids(sessions) == ["b", "c"]


SYNCS: Final[dict[str, Work]] = {
    "create_or_update_playlist": lambda db: crud.create_or_update_playlist(db, "p", "n", ["x"]),
    "sync_playlists": lambda db: crud.sync_playlists(db, [playlist_data("p", ["x"])]),
    "remove_others": lambda db: crud.sync_playlists(db, [], remove_others=True),
}
DELETIONS: Final[dict[str, Work]] = {
    "delete_playlist": lambda db: crud.delete_playlist(db, "p"),
    "delete_orphan_tracks": lambda db: crud.delete_orphan_tracks(db, limit=10),
    "clear_all_playlists_and_tracks": crud.clear_all_playlists_and_tracks,
}


@only_postgresql
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("sync", SYNCS)
async def test_a_sync_is_refused_where_it_would_not_see_what_it_waited_for(
    sessions: Sessions, sync: str, level: str
) -> None:
    """It would take out and put in by an old list, and mix that with the new one."""
    await add_playlist(sessions)
    before = await all_rows(sessions)
    async with sessions() as db:
        await db.execute(text(f"SET TRANSACTION ISOLATION LEVEL {level}"))
        with pytest.raises(TransactionRequired, match=f"{level}.*READ COMMITTED"):
            await SYNCS[sync](db)
        await db.commit()
    assert await all_rows(sessions) == before


@only_postgresql
@pytest.mark.parametrize("deletion", DELETIONS)
async def test_a_deletion_that_does_not_see_what_a_sync_has_added_is_a_conflict(
    sessions: Sessions, deletion: str
) -> None:
    """The foreign keys of what is deleted see more than the transaction."""
    await add_playlist(sessions)
    async with sessions.begin() as db:
        await crud.get_or_create_track(db, "orphan")
    async with sessions() as db:
        await db.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        await crud.get_playlist(db, "p")
        await add_playlist(sessions, track_ids=["orphan", "a", "new"])
        with pytest.raises(TransactionConflict):
            await DELETIONS[deletion](db)
    assert await stored_track_ids(sessions) == ["orphan", "a", "new"]


@only_postgresql
async def test_a_sync_that_waited_for_another_replaces_what_that_one_wrote(
    url: str, sessions: Sessions
) -> None:
    """Also where the first changed none but the places, and no row of a playlist."""
    await add_playlist(sessions, track_ids=["a", "b"])
    async with sessions.begin() as db:
        await crud.sync_playlists(db, [playlist_data(track_ids=["a", "b", "c"])])
        syncing = asyncio.create_task(add_playlist(sessions, track_ids=["x", "a", "b"]))
        await until_waiting_for_lock(url)
    await syncing
    assert await stored_track_ids(sessions) == ["x", "a", "b"]


KEYS: Final = [f"key-{number}" for number in range(3_000)]

WRITING_NEW_ROWS: Final[dict[str, Callable[[int, list[str]], Work]]] = {
    "the tracks of a playlist": lambda task, keys: (
        lambda db: crud.sync_playlists(db, [playlist_data(f"p{task}", keys)])
    ),
    "playlists": lambda _, keys: (
        lambda db: crud.sync_playlists(db, [playlist_data(key, []) for key in keys])
    ),
    "tracks": lambda _, keys: (
        lambda db: crud.upsert_tracks(db, [TrackData(id=key, name="Name") for key in keys])
    ),
}


async def write_in_many_orders(url: str, sessions: Sessions, what: str) -> list[BaseException]:
    """Write the same new rows in eight transactions at once; return the errors.

    Each writes others besides, as many that the sets of what they write are of two orders: above
    4,914 elements Python spreads a set anew.
    """

    async def write(task: int) -> None:
        keys = KEYS + [f"{task} {number}" for number in range(2_100 if task % 2 else 1_800)]
        random.Random(task).shuffle(keys)
        work = WRITING_NEW_ROWS[what](task, keys)
        async with sessions.begin() as db:
            await work(db)

    async with sessions.begin() as db:
        await crud.clear_all_playlists_and_tracks(db)  # lets all others wait, and so begin together
        writing = [asyncio.create_task(write(task)) for task in range(8)]
        await until_waiting_for_lock(url, sessions=8)
    ends = await asyncio.gather(*writing, return_exceptions=True)
    return [end for end in ends if end is not None]


@only_postgresql
@pytest.mark.parametrize("what", WRITING_NEW_ROWS)
async def test_the_order_in_which_new_rows_are_given_makes_no_deadlock(
    url: str, sessions: Sessions, what: str
) -> None:
    """Each waits for the rows of the others, and so all must write them in one order."""
    for _ in range(6):
        assert await write_in_many_orders(url, sessions, what) == []


@only_postgresql
@pytest.mark.parametrize("what", WRITING_NEW_ROWS)
async def test_new_rows_that_are_not_sorted_deadlock(
    monkeypatch: pytest.MonkeyPatch, url: str, sessions: Sessions, what: str
) -> None:
    """The control: each of two has written one end of the same rows, and waits in the middle."""

    def in_the_tasks_order(rows: Iterable[Any], **by: Any) -> list[Any]:
        task = asyncio.current_task()
        return sorted(rows, **by, reverse=task is not None and task.get_name() == "descending")

    for module in (playlist_sync, tracks):
        monkeypatch.setattr(module, "sorted", in_the_tasks_order, raising=False)

    async def write(task: int, keys: list[str]) -> None:
        async with sessions.begin() as db:
            await WRITING_NEW_ROWS[what](task, keys)(db)

    async with sessions() as db:
        await WRITING_NEW_ROWS[what](0, ["m"])(db)
        writing = [
            asyncio.create_task(write(number, ["a", "m", "z"]), name=order)
            for number, order in enumerate(("ascending", "descending"), 1)
        ]
        await until_waiting_for_lock(url, sessions=2)
        await db.rollback()
    ends = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(each) for each in ends if isinstance(each, Exception)] == [TransactionConflict]
