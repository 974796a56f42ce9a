"""One coroutine against the very same statement written by hand on the same session."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from sqlalchemy import Select, Update, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.databases import BOTH, POSTGRESQL, Database, Databases
from benchmarks.figures import Ratio
from benchmarks.report import Report
from zotify_async_crud import crud
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

Call = Callable[[AsyncSession, DownloadJob, float], Awaitable[DownloadJob | None]]

REQUIRED: Final = 1.15
ROUNDS: Final = 7
BATCHES: Final = 12
"""Alternating batches of each contestant in a round."""
BATCH: Final = 12
"""Calls in a batch."""

_ERROR: Final = "the connection was lost"
_FRESH: Final = {"populate_existing": True}
_FRESH_WRITE: Final = {"populate_existing": True, "synchronize_session": False}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A coroutine, its rival, and the most that the coroutine may take of the rival's time."""

    name: str
    ours: Call
    rival: Call
    writes: bool
    at_most: float | None = None


@dataclass(slots=True)
class Contestant:
    """A call, the seconds that each one took in this round, and what they returned."""

    call: Call
    jobs: Sequence[DownloadJob]
    seconds: list[float] = field(default_factory=list)
    returned: list[DownloadJob | None] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)


async def run(databases: Databases, report: Report) -> None:
    """Compare each as a unit of its own, and inside one open transaction."""
    rows: list[list[object]] = []
    for name in BOTH:
        async with databases.fresh(name) as database:
            await database.add_jobs(1, 2 * BATCHES * BATCH)
            rows += [
                await _compare(database, comparison, mode, report)
                for comparison in _comparisons(name)
                for mode in (_units, _one_transaction)
            ]
    report.table(
        f"{ROUNDS} rounds, each with {BATCHES * BATCH} calls of either in alternating batches of"
        f" {BATCH}",
        ["database, coroutine against rival", "measured", "ours µs", "rival µs", "ratio (min-max)"],
        rows,
    )


def _comparisons(name: str) -> list[Comparison]:
    by_hand = _pick_up_postgresql if name == POSTGRESQL else _pick_up_sqlite
    return [
        Comparison("get_download_job / select", _get, _select, False, REQUIRED),
        Comparison("get_download_job / db.get", _get, _db_get, False),
        Comparison("update_download_job_status / update", _set, _update, True, REQUIRED),
        Comparison("pick up and update / two statements", _pick_up, by_hand, True),
    ]


Mode = Callable[[Database, Contestant, Sequence[DownloadJob], float], Awaitable[None]]


async def _compare(
    database: Database, comparison: Comparison, mode: Mode, report: Report
) -> list[object]:
    if comparison.ours is _pick_up:
        await _refill(database)
    jobs = await _jobs(database)
    half = len(jobs) // 2
    ours = Contestant(comparison.ours, jobs[:half])
    rival = Contestant(comparison.rival, jobs[half:])
    for number in range(-1, ROUNDS):  # round -1 warms up
        await _round(database, (ours, rival), mode, (number + 2) / 16)
        for contestant in (ours, rival):
            await _check(database, contestant, (number + 2) / 16 if comparison.writes else None)
            if number >= 0:
                contestant.medians.append(median(contestant.seconds))
            contestant.seconds, contestant.returned = [], []
    ratio = Ratio.of(ours.medians, rival.medians)
    measured = "one unit" if mode is _units else "in one transaction"
    if comparison.at_most is not None:
        what = f"{database.name}, {comparison.name}, {measured}"
        report.require(what, ratio, at_most=comparison.at_most)
    shown = (f"{median(contestant.medians) * 1e6:,.0f}" for contestant in (ours, rival))
    return [f"{database.name}, {comparison.name}", measured, *shown, ratio]


async def _round(
    database: Database, pair: tuple[Contestant, Contestant], mode: Mode, progress: float
) -> None:
    """Run A B B A A B B A …: neither is always the one that comes after the other."""
    for number in range(BATCHES):
        chunk = slice(number * BATCH, (number + 1) * BATCH)
        for contestant in pair if number % 2 == 0 else reversed(pair):
            await mode(database, contestant, contestant.jobs[chunk], progress)


async def _units(
    database: Database, contestant: Contestant, jobs: Sequence[DownloadJob], progress: float
) -> None:
    for job in jobs:
        started = time.perf_counter()
        async with database.sessions.begin() as db:
            returned = await contestant.call(db, job, progress)
        contestant.seconds.append(time.perf_counter() - started)
        contestant.returned.append(returned)


async def _one_transaction(
    database: Database, contestant: Contestant, jobs: Sequence[DownloadJob], progress: float
) -> None:
    async with database.sessions.begin() as db:
        await db.connection()  # whoever comes first would pay for BEGIN
        for job in jobs:
            started = time.perf_counter()
            returned = await contestant.call(db, job, progress)
            contestant.seconds.append(time.perf_counter() - started)
            contestant.returned.append(returned)


async def _get(db: AsyncSession, job: DownloadJob, _: float) -> DownloadJob | None:
    return await crud.get_download_job(db, job.job_id)


async def _select(db: AsyncSession, job: DownloadJob, _: float) -> DownloadJob | None:
    statement = select(DownloadJob).where(DownloadJob.job_id == job.job_id)
    return (await db.execute(statement, execution_options=_FRESH)).scalar_one_or_none()


async def _db_get(db: AsyncSession, job: DownloadJob, _: float) -> DownloadJob | None:
    return await db.get(DownloadJob, job.job_id, populate_existing=True)


async def _set(db: AsyncSession, job: DownloadJob, progress: float) -> DownloadJob | None:
    status = DownloadJobStatus.IN_PROGRESS
    return await crud.update_download_job_status(db, job, status, _ERROR, progress)


async def _update(db: AsyncSession, job: DownloadJob, progress: float) -> DownloadJob | None:
    statement = (
        update(DownloadJob)
        .where(DownloadJob.job_id == job.job_id)
        .values(status=DownloadJobStatus.IN_PROGRESS, error_message=_ERROR, progress=progress)
        .returning(DownloadJob)
    )
    return (await db.execute(statement, execution_options=_FRESH_WRITE)).scalar_one_or_none()


async def _pick_up(db: AsyncSession, _: DownloadJob, progress: float) -> DownloadJob | None:
    job = await crud.get_next_pending_download_job(db)
    return None if job is None else await _set(db, job, progress)


async def _pick_up_postgresql(
    db: AsyncSession, _: DownloadJob, progress: float
) -> DownloadJob | None:
    statement = _first_pending(select(DownloadJob)).with_for_update(skip_locked=True)
    return await _execute_and_update(db, statement, progress)


async def _pick_up_sqlite(db: AsyncSession, _: DownloadJob, progress: float) -> DownloadJob | None:
    first = _first_pending(select(DownloadJob.job_id)).scalar_subquery()
    statement = (
        update(DownloadJob)
        .where(DownloadJob.job_id == first)
        .values(track_id=DownloadJob.track_id)
        .returning(DownloadJob)
    )
    return await _execute_and_update(db, statement, progress)


def _first_pending(statement: Select[Any]) -> Select[Any]:
    order = (DownloadJob.created_at, DownloadJob.job_id)
    pending = literal(DownloadJobStatus.PENDING, DownloadJob.status.type, literal_execute=True)
    return statement.where(DownloadJob.status == pending).order_by(*order).limit(1)


async def _execute_and_update(
    db: AsyncSession, statement: Select[Any] | Update, progress: float
) -> DownloadJob | None:
    options = _FRESH_WRITE if isinstance(statement, Update) else _FRESH
    job = (await db.execute(statement, execution_options=options)).scalar_one_or_none()
    return None if job is None else await _update(db, job, progress)


async def _refill(database: Database) -> None:
    """Leave as many pending jobs as all rounds take."""
    await database.execute("DELETE FROM download_jobs")
    await database.vacuum()
    await database.add_jobs(1, 2 * BATCHES * BATCH * (ROUNDS + 1), status="pending", rare="pending")


async def _jobs(database: Database) -> list[DownloadJob]:
    async with database.sessions() as db:
        order = select(DownloadJob).order_by(DownloadJob.job_id).limit(2 * BATCHES * BATCH)
        return list(await db.scalars(order))


async def _check(database: Database, contestant: Contestant, progress: float | None) -> None:
    """Compare what the round returned with the rows, and with what was to be written."""
    returned = {job.job_id: job for job in contestant.returned if job is not None}
    async with database.sessions() as db:
        found = await db.scalars(select(DownloadJob).where(DownloadJob.job_id.in_(returned)))
        stored = {job.job_id: _state(job) for job in found}
    if len(returned) != BATCHES * BATCH or stored != {
        job_id: _state(job) for job_id, job in returned.items()
    }:
        raise AssertionError("a call did not return a job of its own as the table holds it")
    written = (DownloadJobStatus.IN_PROGRESS, progress, _ERROR)
    if progress is not None and any(state[1:4] != written for state in stored.values()):
        raise AssertionError("a call did not write what was asked for")


def _state(job: DownloadJob) -> tuple[object, ...]:
    return job.track_id, job.status, job.progress, job.error_message, job.created_at
