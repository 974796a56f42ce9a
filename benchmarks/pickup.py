"""How fast tasks share the queue, with and without a million finished jobs beside it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from sqlalchemy import select

from benchmarks.databases import BOTH, Database, Databases
from benchmarks.figures import Ratio, percentile
from benchmarks.report import Report
from zotify_async_crud import crud
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

TASKS: Final = (1, 8, 20)
JOBS: Final = 400
ROUNDS: Final = 5
FINISHED: Final = 1_000_000
REQUIRED: Final = 2.0
"""A pickup beside a million finished jobs may take so many times a pickup without them."""


@dataclass(slots=True)
class Drain:
    """What one database's rounds with a number of tasks gave."""

    seconds: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)
    """The seconds of each transaction, from asking for a connection until after COMMIT."""

    @property
    def rate(self) -> float:
        """Jobs per second, the median of the rounds."""
        return JOBS / median(self.seconds)


async def run(databases: Databases, report: Report) -> None:
    """Drain small queues by turns on an empty table and on a full one."""
    rates: list[list[object]] = []
    waits: list[list[object]] = []
    for name in BOTH:
        async with databases.fresh(name) as small, databases.fresh(name) as full:
            await full.keep_statistics_away()
            await full.add_jobs(1, FINISHED, rare="completed")
            for tasks in TASKS:
                drains = await _compare(small, full, tasks)
                rates.append(_rate(name, tasks, *drains, report))
                waits += [
                    _wait(name, tasks, *shown) for shown in zip(("0", "1M"), drains, strict=True)
                ]
    report.table(
        f"Pick up, mark and commit, {JOBS} jobs a round, {ROUNDS} rounds, without statistics",
        ["database, tasks", "jobs/s, 0 finished", f"jobs/s, {FINISHED:,}", "time ratio (min-max)"],
        rates,
    )
    report.table(
        "One such transaction, from asking for a connection until after COMMIT",
        ["database, tasks", "finished", "p50 ms", "p99 ms", "max ms", "p99 to p50"],
        waits,
    )


def _rate(name: str, tasks: int, small: Drain, full: Drain, report: Report) -> list[object]:
    ratio = Ratio.of(full.seconds, small.seconds)
    what = f"{name}, {tasks} tasks, beside {FINISHED:,} finished jobs to none"
    report.require(what, ratio, at_most=REQUIRED)
    return [f"{name}, {tasks}", f"{small.rate:,.0f}", f"{full.rate:,.0f}", ratio]


def _wait(name: str, tasks: int, finished: str, drain: Drain) -> list[object]:
    p50, p99, longest = (percentile(drain.units, share) for share in (0.5, 0.99, 1))
    shown = (f"{seconds * 1e3:,.1f}" for seconds in (p50, p99, longest))
    return [f"{name}, {tasks}", finished, *shown, f"{p99 / p50:.1f}"]


async def _compare(small: Database, full: Database, tasks: int) -> tuple[Drain, Drain]:
    drains = Drain(), Drain()
    for number in range(-1, ROUNDS):  # round -1 opens the connections
        pairs = [(small, drains[0]), (full, drains[1])]
        for database, drain in pairs if number % 2 == 0 else reversed(pairs):
            seconds, units = await _drain(database, tasks)
            if number >= 0:
                drain.seconds.append(seconds)
                drain.units += units
    return drains


async def _drain(database: Database, tasks: int) -> tuple[float, list[float]]:
    """Let *tasks* share a queue of ``JOBS``; return the seconds in all and of each transaction."""
    await database.add_jobs(FINISHED + 1, FINISHED + JOBS, status="pending", rare="pending")
    picked: list[str] = []
    units: list[float] = []
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(_work(database, picked, units))
    seconds = time.perf_counter() - started
    await _check(database, picked)
    await database.execute("DELETE FROM download_jobs WHERE job_id > :last", last=_job_id(FINISHED))
    return seconds, units


async def _work(database: Database, picked: list[str], units: list[float]) -> None:
    """Pick up and mark one job after another, each in a transaction, until none is left."""
    while True:
        started = time.perf_counter()
        async with database.sessions.begin() as db:
            job = await crud.get_next_pending_download_job(db)
            if job is None:
                return
            await crud.update_download_job_status(db, job, DownloadJobStatus.IN_PROGRESS)
        units.append(time.perf_counter() - started)
        picked.append(job.job_id)


async def _check(database: Database, picked: list[str]) -> None:
    """See to it that each job was picked up once, and that the table says so."""
    expected = [_job_id(FINISHED + number) for number in range(1, JOBS + 1)]
    begun = select(DownloadJob.job_id).where(DownloadJob.status == DownloadJobStatus.IN_PROGRESS)
    async with database.sessions() as db:
        marked = list(await db.scalars(begun.order_by(DownloadJob.job_id)))
    if sorted(picked) != expected or marked != expected:
        raise AssertionError("not every job was picked up exactly once")


def _job_id(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012d}"
