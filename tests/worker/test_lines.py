"""The connections of a pool's exchanges: kept while they live, and replaced when they do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import Sessions
from tests.support.faults import is_sqlite, kill, only_postgresql
from tests.support.pools import NEVER, PATIENCE, Held, drain, enqueue, running, until_status
from zotify_async_crud import _lines, crud, schemas
from zotify_async_crud._lines import Lines
from zotify_async_crud.schemas import Claim, DownloadJobStatus
from zotify_async_crud.worker import Counts, JobContext, WorkerHooks, WorkerPool
from zotify_async_crud.worker._link import Link

MANY: Final = 4_000
FEW: Final = 300
"""Enough where one exchange waits for the other: each may wait for a slow disk."""


async def process_of(lines: Lines) -> int:
    """Return the server's process at the other end of the next line."""
    async with lines.session() as db:
        return int((await db.execute(text("SELECT pg_backend_pid()"))).scalar_one())


@only_postgresql
@pytest.mark.parametrize("sure", [0.0, NEVER], ids=["asked whether it lives", "used just now"])
async def test_a_connection_is_used_again(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, sure: float
) -> None:
    """And takes no place in the engine's pool."""
    monkeypatch.setattr(_lines, "_SURE", sure)
    lines = Lines(engine)
    assert await process_of(lines) == await process_of(lines)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await lines.close()


@only_postgresql
async def test_a_connection_that_died_while_it_was_idle_is_replaced(
    url: str,
    engine: AsyncEngine,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The pool does not notice, and there is nothing to log."""
    monkeypatch.setattr(_lines, "_SURE", 0.0)
    handler = Held()
    handler.let_go()
    lines = Lines(engine)
    await kill(url, await process_of(lines))
    assert await process_of(lines)
    await lines.close()
    async with running(WorkerPool(sessions, handler, poll_interval=NEVER)):
        for _ in range(2):
            (job_id,) = await enqueue(sessions)
            assert (await handler.next()).job_id == job_id
            await until_status(sessions, job_id, DownloadJobStatus.COMPLETED)
    assert caplog.text == ""


@only_postgresql
async def test_an_error_ends_a_connection(engine: AsyncEngine) -> None:
    """Whatever was under way on it, the next exchange has another."""
    lines = Lines(engine)
    before = await process_of(lines)
    with pytest.raises(ZeroDivisionError):
        async with lines.session():
            raise ZeroDivisionError
    assert await process_of(lines) != before
    await lines.close()


@pytest.mark.parametrize("concurrency", [1, 10])
async def test_two_exchanges_are_under_way_at_most(
    engine: AsyncEngine, sessions: Sessions, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    """Two where the database can, and one where the order is strict."""
    under_way, most = 0, 0
    exchange = Link.exchange

    async def counted(link: Link, settlements: Sequence[schemas.Settlement], limit: int) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await exchange(link, settlements, limit)
        finally:
            under_way -= 1

    async def handle(_: JobContext) -> None:
        pass

    is_strict = is_sqlite(engine) or concurrency == 1
    jobs, expected = (FEW, 1) if is_strict else (MANY, 2)
    monkeypatch.setattr(Link, "exchange", counted)
    async with asyncio.timeout(PATIENCE):
        while most < expected:  # each time the first may be back before a second is worthwhile
            await enqueue(sessions, jobs)
            counts = await drain(sessions, handle, concurrency=concurrency)
            assert counts == Counts(claimed=jobs, completed=jobs)
    assert most == expected


async def test_handlers_that_never_wait_leave_the_loop_its_turns(sessions: Sessions) -> None:
    """Leases have to be renewed, however many handlers begin at once."""
    turns, seen = 0, []

    class Slow(WorkerHooks):
        def started(self, claim: Claim) -> None:
            seen.append(turns)
            time.sleep(0.006)

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def handle(_: JobContext) -> None:
        pass

    await enqueue(sessions, 5)
    counting = asyncio.create_task(count_turns())
    pool = WorkerPool(sessions, handle, concurrency=5, hooks=Slow())
    assert (await pool.run(until_idle=True)).completed == 5
    counting.cancel()
    assert len(set(seen)) > 2


@only_postgresql
async def test_an_exchange_of_many_that_only_settles_returns_what_is_lost(
    sessions: Sessions,
) -> None:
    """Also in the statement that could claim."""
    await enqueue(sessions, 3)
    async with sessions.begin() as db:
        claims = await crud.claim_download_jobs(db, worker_id="w", limit=3, lease=NEVER)
    async with sessions.begin() as db:
        await crud.release_download_jobs(db, claims[:1])
    async with sessions.begin() as db:
        completed = [schemas.Settlement(claim, DownloadJobStatus.COMPLETED) for claim in claims]
        exchange = await crud.exchange_download_jobs(
            db, completed, worker_id="w", limit=0, lease=NEVER
        )
    assert exchange == schemas.Exchange(claims=[], lost=claims[:1])
