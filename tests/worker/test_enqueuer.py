"""The enqueuer: callers share transactions, and each hears what became of its own job."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from tests.support.factories import Sessions, new_job, statements_sent, stored_job
from tests.support.faults import MOMENTS, Moment, apart, only_postgresql
from tests.support.pools import (
    PATIENCE,
    an_engine,
    checked_out,
    drain,
    enqueue,
    leaving_no_task,
    statuses,
    until,
)
from tests.worker.interruption import Interruption
from tests.worker.proxy import CUTS, Cut, proxy
from zotify_async_crud import crud, database, enqueuer, events
from zotify_async_crud.enqueuer import Enqueuer
from zotify_async_crud.errors import (
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    EnqueuerClosed,
    InvalidValue,
    OutcomeUnknown,
    SchemaMismatch,
)
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobCreate

CALLERS: Final = 100


def insertions(sent: list[tuple[str, Any]]) -> int:
    """Count the statements that insert jobs."""
    return sum("INSERT INTO download_jobs" in statement for statement, _ in sent)


@contextlib.contextmanager
def held_up(engine: AsyncEngine) -> Iterator[asyncio.Event]:
    """Hold up the insertions of *engine* until the event is set."""
    let_go = asyncio.Event()

    async def wait(*_: Any) -> None:
        await let_go.wait()

    def hold(connection: Any, _: object, statement: str, *___: object) -> None:
        if "INSERT INTO download_jobs" in statement:
            connection.connection.dbapi_connection.run_async(wait)

    event.listen(engine.sync_engine, "before_cursor_execute", hold)
    try:
        yield let_go
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", hold)


@contextlib.contextmanager
def failing(engine: AsyncEngine, error: Exception) -> Iterator[None]:
    """Let the insertions of *engine* fail."""

    def fail(_: object, __: object, statement: str, *___: object) -> None:
        if "INSERT INTO download_jobs" in statement:
            raise error

    event.listen(engine.sync_engine, "before_cursor_execute", fail)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", fail)


async def together(queue: Enqueuer, *tracks: str) -> list[asyncio.Task[str]]:
    """Let as many callers wait as there are *tracks*."""
    tasks = [asyncio.create_task(queue.enqueue(new_job(track))) for track in tracks]
    await asyncio.sleep(0)
    return tasks


async def test_a_job_is_durable_when_its_caller_has_the_id(url: str, sessions: Sessions) -> None:
    """Another connection sees it by then."""
    job = DownloadJobCreate(track_id="t", priority=7, max_attempts=2)
    async with Enqueuer(sessions) as queue, apart(url) as observer:
        for _ in range(3):
            job_id = await queue.enqueue(job)
            stored = text("SELECT track_id, priority, status FROM download_jobs WHERE job_id = :id")
            row = (await observer.execute(stored, {"id": job_id})).one()
            assert tuple(row) == ("t", 7, "pending")


async def test_each_caller_gets_the_id_of_its_own_job(sessions: Sessions) -> None:
    """However many share a transaction."""
    tracks = [f"t{number}" for number in range(CALLERS)]
    async with Enqueuer(sessions) as queue:
        ids = await asyncio.gather(*await together(queue, *tracks))
    assert len(set(ids)) == CALLERS
    for job_id, track_id in zip(ids, tracks, strict=True):
        assert (await stored_job(sessions, job_id)).track_id == track_id


async def test_callers_that_wait_together_share_a_transaction(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """What gathers while one is committed is written by the next one."""
    with statements_sent(engine) as sent, held_up(engine) as let_go:
        async with Enqueuer(sessions) as queue:
            first = await together(queue, "first")

            async def is_on_its_way() -> bool:
                return insertions(sent) == 1

            await until(is_on_its_way)
            others = await together(queue, *(f"t{number}" for number in range(CALLERS)))
            let_go.set()
            await asyncio.gather(*first, *others)
    assert insertions(sent) == 2
    assert await statuses(sessions) == {"pending": CALLERS + 1}


async def test_more_callers_than_fit_in_a_transaction_need_several(
    engine: AsyncEngine, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None waits for a timer, and none is forgotten."""
    monkeypatch.setattr(enqueuer, "_MOST_AT_ONCE", 30)
    with statements_sent(engine) as sent:
        async with Enqueuer(sessions) as queue:
            await asyncio.gather(*await together(queue, *(f"t{n}" for n in range(CALLERS))))
    assert insertions(sent) == 4
    assert await statuses(sessions) == {"pending": CALLERS}


async def test_an_invalid_job_is_only_its_callers_affair(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """It is refused before it joins the others."""
    bad = DownloadJobCreate.model_construct(track_id="a\0b")
    with statements_sent(engine) as sent:
        async with Enqueuer(sessions) as queue:
            good = await together(queue, "good", "good too")
            for invalid in (bad, None, {"track_id": "t"}):
                with pytest.raises(InvalidValue) as refused:
                    await queue.enqueue(invalid)  # type: ignore[arg-type]
                assert refused.value.field in {"track_id", "job"}
            await asyncio.gather(*good)
    assert insertions(sent) == 1
    assert await statuses(sessions) == {"pending": 2}


async def test_a_database_error_reaches_each_caller_of_its_transaction(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """And no other: the enqueuer goes on with the next."""
    async with Enqueuer(sessions) as queue:
        with failing(engine, SchemaMismatch("no such table")):
            failed = await together(queue, "a", "b", "c")
            results = await asyncio.gather(*failed, return_exceptions=True)
        assert [type(result) for result in results] == [SchemaMismatch] * 3
        assert len({id(result) for result in results}) == 3, "each caller raises its own"
        await queue.enqueue(new_job("d"))
    assert await statuses(sessions) == {"pending": 1}


async def test_an_error_of_nobodys_reaches_each_caller_as_it_is(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """Perhaps it cannot be copied."""
    error = RuntimeError("a listener of the application's")
    async with Enqueuer(sessions) as queue:
        with failing(engine, error):
            failed = await together(queue, "a", "b")
            results = await asyncio.gather(*failed, return_exceptions=True)
    assert results == [error, error]


async def test_a_drivers_error_is_translated(engine: AsyncEngine, sessions: Sessions) -> None:
    """A constraint of the application's own, for instance."""
    async with engine.begin() as connection:
        unique = "CREATE UNIQUE INDEX own_index ON download_jobs (track_id)"
        await connection.execute(text(unique))
    try:
        async with Enqueuer(sessions) as queue:
            await queue.enqueue(new_job("a"))
            results = await asyncio.gather(
                *await together(queue, "b", "a", "c"), return_exceptions=True
            )
            assert all(isinstance(result, ConstraintViolated) for result in results)
            await queue.enqueue(new_job("b"))
    finally:
        async with engine.begin() as connection:
            await connection.execute(text("DROP INDEX own_index"))
    assert await statuses(sessions) == {"pending": 2}


@only_postgresql
@pytest.mark.parametrize("cut", CUTS)
async def test_of_a_job_whose_write_was_cut_nobody_knows_whether_it_is_there(
    url: str, sessions: Sessions, cut: Cut
) -> None:
    """The caller is told so, and must look; the next job goes by another connection."""
    async with proxy(url) as before:
        await before.start()
        async with (
            an_engine(before.url) as engine,
            Enqueuer(database.create_session_factory(engine)) as queue,
        ):
            await queue.enqueue(new_job("first"))
            before.cut(cut, of="cut")
            with pytest.raises(OutcomeUnknown):
                await queue.enqueue(new_job("cut"))
            await queue.enqueue(new_job("last"))
        assert before.cuts == 1
    async with sessions() as db:
        stored = [job.track_id for job in await crud.get_all_download_jobs(db)]
    assert stored == ["last", *(["cut"] if cut == "the reply" else []), "first"]


@only_postgresql
async def test_a_job_for_a_server_that_is_not_there_is_not_stored(
    url: str, sessions: Sessions
) -> None:
    """Where there was no connection, nothing can have been written: it is safe to try again."""
    async with (
        proxy(url) as before,
        an_engine(before.url) as engine,
        Enqueuer(database.create_session_factory(engine)) as queue,
    ):
        with pytest.raises(DatabaseUnavailable) as failed:
            await queue.enqueue(new_job())
        assert failed.value.retry_safe
        await before.start()
        await queue.enqueue(new_job())


async def test_callers_of_one_unique_track_get_one_job(sessions: Sessions) -> None:
    """Whether they share a transaction or come one after the other."""
    unique = DownloadJobCreate(track_id="t", unique=True)
    async with Enqueuer(sessions) as queue:
        ids = set(await asyncio.gather(*(queue.enqueue(unique) for _ in range(10))))
        ids.add(await queue.enqueue(unique))
        other = await queue.enqueue(DownloadJobCreate(track_id="t2", unique=True))
    assert len(ids) == 1
    assert other not in ids
    assert await statuses(sessions) == {"pending": 2}


async def test_a_caller_that_is_cancelled_harms_no_other(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """Neither one whose job is on its way nor one that still waits."""
    with statements_sent(engine) as sent, held_up(engine) as let_go:
        async with Enqueuer(sessions) as queue:
            on_their_way = await together(queue, "a", "b")

            async def are_on_their_way() -> bool:
                return insertions(sent) == 1

            await until(are_on_their_way)
            waiting = await together(queue, "c", "d")
            for task in (on_their_way[0], waiting[0]):
                task.cancel()
            await asyncio.wait({on_their_way[0], waiting[0]})
            let_go.set()
            ids = await asyncio.gather(on_their_way[1], waiting[1])
    for job_id, track_id in zip(ids, ("b", "d"), strict=True):
        assert (await stored_job(sessions, job_id)).track_id == track_id


async def test_cancelled_callers_of_a_transaction_that_fails_harm_no_other(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """The error goes to those that still wait."""
    with held_up(engine) as let_go:
        async with Enqueuer(sessions) as queue:
            with failing(engine, SchemaMismatch("no such table")):
                gone, stays = await together(queue, "a", "b")
                gone.cancel()
                await asyncio.wait({gone})
                let_go.set()
                with pytest.raises(SchemaMismatch):
                    await stays
            await queue.enqueue(new_job("c"))


async def test_an_enqueuer_outside_of_its_block_refuses_jobs(sessions: Sessions) -> None:
    """Before, after, and while it is being left; it may be entered again."""
    queue = Enqueuer(sessions)
    with pytest.raises(EnqueuerClosed):
        await queue.enqueue(new_job())
    for _ in range(2):
        async with queue:
            await queue.enqueue(new_job())
        with pytest.raises(EnqueuerClosed):
            await queue.enqueue(new_job())
    assert await statuses(sessions) == {"pending": 2}


async def test_leaving_writes_what_is_waiting(
    engine: AsyncEngine, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, and no more is taken meanwhile."""
    monkeypatch.setattr(enqueuer, "_MOST_AT_ONCE", 3)
    queue = Enqueuer(sessions)
    async with leaving_no_task():
        with held_up(engine) as let_go:

            async def use() -> list[asyncio.Task[str]]:
                async with queue:
                    return await together(queue, *"abcdefgh")

            using = asyncio.create_task(use())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            with contextlib.suppress(EnqueuerClosed):
                for _ in range(20):
                    await asyncio.sleep(0)
                async with asyncio.timeout(PATIENCE):
                    await queue.enqueue(new_job("too late"))
                pytest.fail("it was taken")
            let_go.set()
            tasks = await using
            assert all(task.done() for task in tasks)
            await asyncio.gather(*tasks)
    assert await statuses(sessions) == {"pending": 8}


async def test_an_error_in_the_block_comes_out_and_loses_no_job(sessions: Sessions) -> None:
    """What was handed in is written first."""
    tasks: list[asyncio.Task[str]] = []

    async def use() -> None:
        async with Enqueuer(sessions) as queue:
            tasks.extend(await together(queue, "a", "b"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()
    await asyncio.gather(*tasks)
    assert await statuses(sessions) == {"pending": 2}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_block_that_is_cancelled_anywhere_leaves_no_caller_waiting(
    engine: AsyncEngine, sessions: Sessions, moment: Moment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step: each caller gets its id, an error or a cancellation, and nothing is left."""
    monkeypatch.setattr(enqueuer, "_MOST_AT_ONCE", 2)
    step, happened = 0, True
    while happened:
        before = sum((await statuses(sessions)).values())
        callers: list[asyncio.Task[str]] = []

        async def use(callers: list[asyncio.Task[str]] = callers) -> None:
            async with Enqueuer(sessions) as queue:
                callers += await together(queue, *"abcde")

        def interrupt() -> None:
            using.cancel()  # noqa: B023 - called in this turn

        interruption = Interruption(step, moment)
        async with leaving_no_task():
            with interruption.of(interrupt):
                using = asyncio.create_task(use())
                await asyncio.wait({using})
            if callers:
                await asyncio.wait(callers, timeout=PATIENCE)
            assert all(caller.done() for caller in callers), step
        assert checked_out(engine) == 0
        known = 0
        for caller in callers:
            if not caller.cancelled() and not caller.exception():
                await stored_job(sessions, caller.result())
                known += 1
            elif not caller.cancelled():
                assert isinstance(caller.exception(), (DatabaseError, EnqueuerClosed))
        assert sum((await statuses(sessions)).values()) - before >= known
        step, happened = step + 1, interruption.happened
    assert known == 5
    assert step > 10


async def test_a_loop_that_shuts_down_tells_all_callers(sessions: Sessions) -> None:
    """Whoever cancels the tasks of a program gets them to end."""
    queue = Enqueuer(sessions)
    entered = asyncio.Event()

    async def use() -> None:
        async with queue:
            entered.set()
            await asyncio.sleep(PATIENCE)

    before = asyncio.all_tasks()
    using = asyncio.create_task(use())
    await entered.wait()
    callers = await together(queue, "a", "b")
    for task in asyncio.all_tasks() - before:
        task.cancel()
    done, pending = await asyncio.wait({using, *callers}, timeout=PATIENCE)
    assert not pending
    assert using in done


async def test_jobs_go_to_the_pools_in_the_order_they_were_handed_in(sessions: Sessions) -> None:
    """Within a transaction and over several."""
    async with Enqueuer(sessions) as queue:
        tasks = []
        for number in range(CALLERS):
            tasks += await together(queue, f"t{number}")
        ids = await asyncio.gather(*tasks)
    handled: list[str] = []

    async def handle(job: Any) -> None:
        handled.append(job.job_id)

    await drain(sessions, handle, concurrency=1)
    assert handled == ids


async def test_an_enqueuer_works_on_an_engine_of_the_callers(plain_sessions: Sessions) -> None:
    """And in several tasks at once."""
    async with Enqueuer(plain_sessions) as queue:
        ids = await asyncio.gather(*(queue.enqueue(new_job()) for _ in range(50)))
    assert len(set(ids)) == 50
    assert await statuses(plain_sessions) == {"pending": 50}


async def test_an_enqueuer_works_on_one_connection(engine: AsyncEngine) -> None:
    """Nobody else can be notified then, and nobody is."""
    async with engine.connect() as connection:
        sessions = async_sessionmaker(connection, expire_on_commit=False)
        async with Enqueuer(sessions) as queue:
            await queue.enqueue(new_job())
        async with sessions() as db:
            counted = await db.scalar(select(func.count()).select_from(DownloadJob))
    assert counted == 1


# notifications

ALONE: Final = "set_config"
"""Part of the statement of a notification that follows a commit."""


@only_postgresql
async def test_the_last_commit_before_leaving_is_notified(url: str, sessions: Sessions) -> None:
    """Also where the block ends right after it."""
    async with listening(url) as heard:
        for _ in range(10):
            async with Enqueuer(sessions) as queue:
                await queue.enqueue(new_job())
            async with asyncio.timeout(PATIENCE):
                await heard.wait()
            heard.clear()


@only_postgresql
async def test_notifications_are_fewer_than_commits(
    url: str, engine: AsyncEngine, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold up few commits; one says as much as a hundred."""
    # on a slow disk, each commit takes longer than the pause, and notifies
    monkeypatch.setattr(events, "_BETWEEN_NOTIFICATIONS", 5.0)
    async with events.notifying(engine), listening(url) as heard:
        with statements_sent(engine) as sent:
            for _ in range(200):
                async with sessions.begin() as db:
                    await crud.create_download_job(db, new_job())
            async with asyncio.timeout(PATIENCE):
                await heard.wait()
    notifications = sum("pg_notify" in statement for statement, _ in sent)
    assert 1 <= notifications < 150


@only_postgresql
async def test_a_notification_that_fails_is_no_error(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """The commit stands, the pools poll, and the next notification may succeed."""
    failed = asyncio.Event()

    def fail(_: object, __: object, statement: str, *___: object) -> None:
        if ALONE in statement and not failed.is_set():
            failed.set()
            raise SchemaMismatch("no such function")

    event.listen(engine.sync_engine, "before_cursor_execute", fail)
    async with events.notifying(engine), listening(url) as heard, asyncio.timeout(PATIENCE):
        while not failed.is_set():
            await enqueue(sessions)
        heard.clear()
        await enqueue(sessions)
        await heard.wait()


@only_postgresql
async def test_whoever_watches_a_lost_connection_is_told(url: str) -> None:
    """With an error that says that another try is safe."""
    engine = database.create_engine(url)
    ready = asyncio.Event()
    watching = asyncio.create_task(events.watch_others(engine, ready.set, interval=1))
    async with asyncio.timeout(PATIENCE):
        await ready.wait()
    async with apart(url) as admin:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        await admin.execute(text(end))
    with pytest.raises(DatabaseError) as lost:
        await watching
    assert lost.value.retry_safe
    await engine.dispose()


async def test_commits_are_told_to_those_who_watch_the_same_database(
    url: str, sessions: Sessions
) -> None:
    """As long as their block runs."""
    told: list[str] = []
    engine = database.create_engine(url)
    elsewhere = database.create_engine("sqlite:///elsewhere.db")
    with (
        events.watching(engine.sync_engine, lambda: told.append("here")),
        events.watching(elsewhere.sync_engine, lambda: told.append("elsewhere")),
        events.watching(engine.sync_engine, lambda: told.append("here too")),
    ):
        await enqueue(sessions)
        assert sorted(told) == ["here", "here too"]
    await enqueue(sessions)
    assert len(told) == 2


async def test_a_savepoint_that_is_released_tells_nobody_yet(url: str, sessions: Sessions) -> None:
    """The transaction around it can still be rolled back."""
    told: list[str] = []
    engine = database.create_engine(url)
    with events.watching(engine.sync_engine, lambda: told.append("told")):
        async with sessions() as db:
            async with db.begin_nested():
                await crud.create_download_job(db, new_job())
            assert told == []
            await db.commit()
            assert told == ["told"]
            await crud.create_download_job(db, new_job())
            await db.commit()
    assert told == ["told"] * 2


@contextlib.asynccontextmanager
async def listening(url: str) -> AsyncIterator[asyncio.Event]:
    """Set an event at each notification, from a connection that has nothing to do with a pool."""
    heard = asyncio.Event()
    async with apart(url) as connection:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection

        def hear(*_: object) -> None:
            heard.set()

        await driver.add_listener("zotify_download_jobs", hear)
        yield heard
        await driver.remove_listener("zotify_download_jobs", hear)
