"""Whether what is finished, or not yet due, slows the queue down."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final

from benchmarks.databases import POSTGRESQL, Database, Databases
from benchmarks.queue import processes, rates
from benchmarks.queue.contestants import OURS
from benchmarks.queue.measures import Figures
from benchmarks.report import Report

JOBS: Final = 60_000
CONCURRENCY: Final = 50
FINISHED: Final = 1_000_000
TOMORROW: Final = 100_000
ROUNDS: Final = 7
REQUIRED: Final = 0.9

_EMPTY: Final = "empty"
_BACKLOGS: Final = {
    _EMPTY: "SELECT",
    f"{FINISHED:,} finished": f"""
        INSERT INTO download_jobs
            (job_id, track_id, status, progress, created_at, attempt, started_at, finished_at)
        SELECT '00000000-0000-7000-8000-' || lpad(CAST(n AS text), 12, '0'), 'track' || n,
            'completed', 1, began, 1, began, began + INTERVAL '1 minute'
        FROM generate_series(1, {FINISHED}) AS n CROSS JOIN LATERAL
            (SELECT TIMESTAMPTZ '2026-01-01 00:00:00Z' + n * INTERVAL '1 second') AS t (began)
    """,
    f"{TOMORROW:,} due tomorrow": f"""
        INSERT INTO download_jobs (job_id, track_id, priority, available_at)
        SELECT '00000000-0000-7000-8000-' || lpad(CAST(n AS text), 12, '0'), 'track' || n,
            100, now() + INTERVAL '1 day'
        FROM generate_series(1, {TOMORROW}) AS n
    """,
}
_ANALYZED: Final = {"never analyzed": False, "analyzed": True}


async def run(databases: Databases, report: Report) -> None:
    """Drain beside each backlog by turns, as it was loaded and again once the planner knows it."""
    async with AsyncExitStack() as stack:
        loaded = {
            backlog: await stack.enter_async_context(databases.fresh(POSTGRESQL))
            for backlog in _BACKLOGS
        }
        for backlog, database in loaded.items():
            await database.keep_statistics_away()
            await database.execute(_BACKLOGS[backlog])
            await database.write_out()
        for when in _ANALYZED:
            found = await _rounds(loaded, analyze=_ANALYZED[when])
            rates.table(report, f"Drain beside a backlog, {when}, ours", found, _EMPTY)
            for backlog in list(_BACKLOGS)[1:]:
                ratio = rates.ratio(found, _EMPTY, backlog)
                report.require(f"drain beside {backlog}, {when}", ratio, at_least=REQUIRED)


async def _rounds(loaded: dict[str, Database], *, analyze: bool) -> dict[str, list[Figures]]:
    """Drain by turns; what was drained stays there as finished, in each database alike."""
    options = {"jobs": JOBS, "concurrency": CONCURRENCY, "analyze": analyze}
    found: dict[str, list[Figures]] = {backlog: [] for backlog in loaded}
    for number in range(ROUNDS):
        names = list(loaded)
        for backlog in names[number % len(names) :] + names[: number % len(names)]:
            found[backlog].append(await processes.run(OURS, "drain", loaded[backlog].url, options))
    return found
