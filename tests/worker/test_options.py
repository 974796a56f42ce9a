"""A pool's options, the engines that it runs on, and its hooks."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import time
from collections.abc import Sequence
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from tests.support.factories import Sessions, short, stored_job
from tests.support.pools import (
    NEVER,
    Held,
    drain,
    enqueue,
    leaving_no_task,
    nothing,
    quick_keeper,
    quick_rescuer,
    running,
    statuses,
    take_over,
    until,
)
from zotify_async_crud import crud, database, migrations
from zotify_async_crud.errors import InvalidValue, LeaseLost
from zotify_async_crud.models import Track
from zotify_async_crud.schemas import Claim
from zotify_async_crud.worker import (
    Counts,
    Discard,
    JobContext,
    Outcome,
    Retry,
    WorkerHooks,
    WorkerPool,
)

BAD: Final[list[tuple[str, Any]]] = [
    ("handler", None),
    ("handler", "handle"),
    ("concurrency", 0),
    ("concurrency", -1),
    ("concurrency", 1_001),
    ("concurrency", 1.0),
    ("concurrency", "1"),
    ("concurrency", True),
    ("worker_id", "w" * 256),
    ("worker_id", "w\0"),
    ("worker_id", "w\ud800"),
    ("worker_id", 7),
    ("lease", 0),
    ("lease", -1),
    ("lease", float("nan")),
    ("lease", float("inf")),
    ("lease", "60"),
    ("lease", None),
    ("lease", True),
    ("lease", dt.timedelta(0)),
    ("lease", dt.timedelta(days=3_651)),
    ("poll_interval", 0),
    ("poll_interval", float("nan")),
    ("poll_interval", None),
    ("shutdown_timeout", -1),
    ("shutdown_timeout", float("inf")),
    ("shutdown_timeout", None),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=short)
def test_an_option_that_makes_no_sense_is_refused_by_its_name(field: str, value: Any) -> None:
    """When the pool is made, not when it runs."""
    options = {"handler": nothing, field: value}
    with pytest.raises(InvalidValue) as refused:
        WorkerPool(async_sessionmaker(), **options)
    assert refused.value.field == field


async def test_durations_are_seconds_or_timedeltas(sessions: Sessions) -> None:
    """Both say the same."""
    await enqueue(sessions, 2)
    leases: list[dt.timedelta] = []

    async def handle(job: JobContext) -> None:
        begun = (await stored_job(sessions, job.job_id)).started_at
        assert begun is not None
        leases.append(job.claim.lease_expires_at - begun)

    for lease in (90, dt.timedelta(seconds=90)):
        await drain(
            sessions,
            handle,
            lease=lease,
            concurrency=1,
            poll_interval=dt.timedelta(hours=1),
            shutdown_timeout=dt.timedelta(0),
        )
    assert leases == [dt.timedelta(seconds=90)] * 2


def test_each_pool_has_an_id_of_its_own() -> None:
    """Unless it is given one."""
    ids = {WorkerPool(async_sessionmaker(), nothing).worker_id for _ in range(100)}
    assert len(ids) == 100
    assert WorkerPool(async_sessionmaker(), nothing, worker_id="w").worker_id == "w"


async def test_a_pool_works_on_an_engine_of_the_callers(plain_sessions: Sessions) -> None:
    """SQLAlchemy's own settings: each job is handled once, retried, and completed."""
    await enqueue(plain_sessions, 60)
    handled: list[tuple[str, int]] = []

    async def handle(job: JobContext) -> None:
        handled.append((job.job_id, job.attempt))
        await job.report(0.5)
        if job.track_id == "t7" and job.attempt == 1:
            raise Retry(in_=0)
        async with plain_sessions.begin() as db:
            await crud.get_or_create_track(db, job.track_id)
            if job.track_id == "t8":
                await crud.complete_download_job(db, job.claim)

    counts = await drain(plain_sessions, handle, concurrency=5)
    assert counts == Counts(claimed=61, completed=60, failed=1)
    assert len(set(handled)) == len(handled) == 61


async def test_two_pools_on_engines_of_the_callers_share_a_queue(url: str) -> None:
    """In one process, on SQLite with writers that come in each other's way."""
    engines = [create_async_engine(url) for _ in range(2)]
    factories = [async_sessionmaker(engine, expire_on_commit=False) for engine in engines]
    await enqueue(factories[0], 100)
    handled: list[str] = []

    async def handle(job: JobContext) -> None:
        handled.append(job.job_id)

    counts = await asyncio.gather(
        *(drain(sessions, handle, concurrency=3) for sessions in factories)
    )
    assert sum(count.completed for count in counts) == 100
    assert sum(count.lost for count in counts) == 0
    assert len(set(handled)) == len(handled) == 100
    for engine in engines:
        await engine.dispose()


async def test_a_pool_works_in_memory() -> None:
    """On the library's engine, whose one connection its transactions share in turn."""
    engine = database.create_engine("sqlite://")
    await migrations.upgrade(engine)
    sessions = database.create_session_factory(engine)
    handler = Held()
    handler.let_go()
    async with running(WorkerPool(sessions, handler, poll_interval=NEVER)) as run:
        await enqueue(sessions, 20)
        for _ in range(20):
            await handler.next()
        await enqueue(sessions, 5)
        for _ in range(5):
            await handler.next()
    assert run.result() == Counts(claimed=25, completed=25)
    await engine.dispose()


async def test_a_pool_in_memory_polls_for_what_nobody_tells() -> None:
    """There is no other process, but there is other software in this one."""
    engine = database.create_engine("sqlite://")
    await migrations.upgrade(engine)
    sessions = database.create_session_factory(engine)
    handler = Held()
    handler.let_go()
    async with running(WorkerPool(sessions, handler, poll_interval=0.05)):
        async with engine.begin() as connection:
            insert = "INSERT INTO download_jobs (job_id, track_id) VALUES ('1', 't')"
            await connection.exec_driver_sql(insert)
        assert (await handler.next()).job_id == "1"
    await engine.dispose()


async def test_a_pool_on_one_connection_takes_turns_on_it(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a test suite binds its sessions: claims, renewals and rescues do not mix."""
    quick_keeper(monkeypatch, 0.3)
    quick_rescuer(monkeypatch, 0.3)
    async with engine.connect() as connection:
        sessions = async_sessionmaker(connection, expire_on_commit=False)
        await enqueue(sessions, 30)

        async def handle(job: JobContext) -> None:
            await asyncio.sleep(0.02)

        counts = await drain(sessions, handle, concurrency=2, lease=NEVER, poll_interval=0.1)
        assert counts == Counts(claimed=30, completed=30)
        assert await statuses(sessions) == {"completed": 30}


async def test_sessions_that_expire_what_they_loaded_are_as_good(engine: AsyncEngine) -> None:
    """A pool reads nothing after its commits."""
    sessions = async_sessionmaker(engine)
    await enqueue(sessions, 10)
    assert await drain(sessions) == Counts(claimed=10, completed=10)


class Told(WorkerHooks):
    """Hooks that write down what they are told."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []
        self.starts: list[Claim] = []
        self.ends: list[tuple[str, int, Outcome, float]] = []

    def claimed(self, claims: Sequence[Claim]) -> None:
        """Write it down."""
        assert claims
        self.claims += claims

    def started(self, claim: Claim) -> None:
        """Write it down."""
        self.starts.append(claim)

    def finished(self, claim: Claim, outcome: Outcome, duration: float) -> None:
        """Write it down."""
        self.ends.append((claim.track_id, claim.attempt, outcome, duration))


async def test_hooks_are_told_of_each_attempt(sessions: Sessions) -> None:
    """Of its claim, its start, and once it is written, of its outcome and duration."""
    await enqueue(sessions, 4, max_attempts=2)
    hooks = Told()

    async def handle(job: JobContext) -> None:
        if job.track_id == "t1" and job.attempt == 1:
            raise Retry(in_=0)
        if job.track_id == "t2":
            raise Discard
        if job.track_id == "t3":
            await asyncio.sleep(0.2)

    began = time.perf_counter()
    await drain(sessions, handle, hooks=hooks)
    took = time.perf_counter() - began
    assert sorted((track, attempt, outcome) for track, attempt, outcome, _ in hooks.ends) == [
        ("t0", 1, Outcome.COMPLETED),
        ("t1", 1, Outcome.FAILED),
        ("t1", 2, Outcome.COMPLETED),
        ("t2", 1, Outcome.FAILED),
        ("t3", 1, Outcome.COMPLETED),
    ]
    assert len(hooks.claims) == len(hooks.starts) == 5
    assert set(hooks.claims) == set(hooks.starts)
    durations = {(track, attempt): duration for track, attempt, _, duration in hooks.ends}
    assert 0.19 <= durations["t3", 1] <= took
    assert all(0 <= duration <= took for duration in durations.values())


async def test_hooks_are_told_of_what_is_given_back_and_lost(sessions: Sessions) -> None:
    """What was never begun has no duration."""
    await enqueue(sessions)
    hooks, handler = Told(), Held()
    pool = WorkerPool(sessions, handler, hooks=hooks, lease=NEVER, shutdown_timeout=0)
    async with running(pool):
        await handler.next()
        await take_over(sessions)
        handler.let_go()

        async def is_told() -> bool:
            return bool(hooks.ends)

        await until(is_told)
    ((_, _, outcome, duration),) = hooks.ends
    assert outcome is Outcome.LOST
    assert duration > 0

    hooks, handler = Told(), Held()
    await enqueue(sessions)
    pool = WorkerPool(sessions, handler, hooks=hooks, lease=NEVER, shutdown_timeout=0)
    async with running(pool):
        await handler.next()
    ((_, _, outcome, duration),) = hooks.ends
    assert outcome is Outcome.RELEASED
    assert duration > 0


class Failing(WorkerHooks):
    """Hooks that fail each time."""

    def claimed(self, claims: Sequence[Claim]) -> None:
        """Fail."""
        raise ZeroDivisionError("claimed")

    def started(self, claim: Claim) -> None:
        """Fail."""
        raise ZeroDivisionError("started")

    def finished(self, claim: Claim, outcome: Outcome, duration: float) -> None:
        """Fail."""
        raise ZeroDivisionError("finished")


async def test_a_hook_that_fails_is_logged_and_harmless(
    sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """The job is done nevertheless."""
    await enqueue(sessions, 3)
    async with leaving_no_task():
        counts = await drain(sessions, hooks=Failing())
    assert counts == Counts(claimed=3, completed=3)
    assert await statuses(sessions) == {"completed": 3}
    for hook in ("claimed", "started", "finished"):
        assert f"ZeroDivisionError: {hook}" in caplog.text


async def test_hooks_need_not_do_anything(sessions: Sessions) -> None:
    """Whoever wants to count one thing overrides one method."""
    await enqueue(sessions, 2)
    assert await drain(sessions, hooks=WorkerHooks()) == Counts(claimed=2, completed=2)


async def test_a_handler_may_use_sessions_of_its_own(sessions: Sessions) -> None:
    """Also on the library's SQLite engine, whose one connection everybody shares in turn."""
    await enqueue(sessions, 30)

    async def handle(job: JobContext) -> None:
        async with sessions.begin() as db:
            await crud.get_or_create_track(db, job.track_id)
            await asyncio.sleep(0)
            await crud.get_or_create_track(db, f"{job.track_id} again")

    assert await drain(sessions, handle) == Counts(claimed=30, completed=30)
    async with sessions() as db:
        assert await db.get(Track, "t29 again") is not None


async def test_a_handler_may_be_a_method_or_a_partial(sessions: Sessions) -> None:
    """Anything that is called with the job and can be awaited."""

    class Downloader:
        def __init__(self) -> None:
            self.done: list[str] = []

        async def download(self, job: JobContext) -> None:
            self.done.append(job.track_id)

    async def with_option(option: str, job: JobContext) -> None:
        downloader.done.append(option)

    downloader = Downloader()
    await enqueue(sessions)
    await drain(sessions, downloader.download)
    await enqueue(sessions)
    await drain(sessions, functools.partial(with_option, "option"))
    assert downloader.done == ["t0", "option"]


async def test_an_error_of_the_library_in_a_handler_is_a_failure_like_any_other(
    sessions: Sessions,
) -> None:
    """Also LeaseLost, of some other claim."""
    (job_id,) = await enqueue(sessions, max_attempts=1)

    async def handle(job: JobContext) -> None:
        raise LeaseLost("another job", 3)

    assert await drain(sessions, handle) == Counts(claimed=1, failed=1)
    message = (await stored_job(sessions, job_id)).error_message
    assert message == "LeaseLost: attempt 3 at download job another job lost its lease"
