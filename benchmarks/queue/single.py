"""One job enqueued and committed, against the same INSERT written by hand on the session."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Final

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.databases import BOTH, Database, Databases
from benchmarks.figures import Ratio
from benchmarks.report import Report
from zotify_async_crud import crud, schemas
from zotify_async_crud.models import DownloadJob

Call = Callable[[AsyncSession, str], Awaitable[DownloadJob]]

REQUIRED: Final = 1.1
ROUNDS: Final = 7
BATCHES: Final = 12
"""Alternating batches of each in a round."""
BATCH: Final = 25
"""Calls in a batch."""

_FRESH: Final = {"populate_existing": True}


async def run(databases: Databases, report: Report) -> None:
    """Compare transactions of one call each, in one process and by turns."""
    rows: list[list[object]] = []
    for name in BOTH:
        async with databases.fresh(name) as database:
            seconds: dict[Call, list[float]] = {_ours: [], _by_hand: []}
            for number in range(-1, ROUNDS):  # round -1 warms up
                took = await _round(database)
                for call in seconds if number >= 0 else ():
                    seconds[call].append(median(took[call]))
            await _check(database)
            ratio = Ratio.of(seconds[_ours], seconds[_by_hand])
            report.require(f"{name}, one job enqueued", ratio, at_most=REQUIRED)
            shown = (f"{median(seconds[call]) * 1e6:,.0f}" for call in (_ours, _by_hand))
            rows.append([name, *shown, ratio])
    report.table(
        f"create_download_job against an INSERT by hand, each committed; {ROUNDS} rounds of"
        f" {BATCHES * BATCH} calls",
        ["database", "ours µs", "by hand µs", "ratio (min-max)"],
        rows,
    )


async def _round(database: Database) -> dict[Call, list[float]]:
    """Call A B B A A B B A …: neither is always the one that comes after the other."""
    seconds: dict[Call, list[float]] = {_ours: [], _by_hand: []}
    for number in range(BATCHES):
        for call in seconds if number % 2 == 0 else reversed(seconds):
            for place in range(BATCH):
                started = time.perf_counter()
                async with database.sessions.begin() as db:
                    await call(db, f"{place:022d}")
                seconds[call].append(time.perf_counter() - started)
    return seconds


async def _ours(db: AsyncSession, track_id: str) -> DownloadJob:
    return await crud.create_download_job(db, schemas.DownloadJobCreate(track_id=track_id))


async def _by_hand(db: AsyncSession, track_id: str) -> DownloadJob:
    statement = insert(DownloadJob).values(
        track_id=track_id, priority=0, available_at=None, max_attempts=5, is_unique=False
    )
    returning = statement.returning(DownloadJob)
    return (await db.execute(returning, execution_options=_FRESH)).scalar_one()


async def _check(database: Database) -> None:
    """See to it that each call left a job that waits."""
    async with database.sessions() as db:
        statuses = list(await db.scalars(select(DownloadJob.status)))
    if statuses != [schemas.DownloadJobStatus.PENDING] * (2 * BATCHES * BATCH * (ROUNDS + 1)):
        raise AssertionError("not every call enqueued one job")
