"""How fast one process drains the queue of jobs that do nothing."""

from __future__ import annotations

from typing import Final

from benchmarks.databases import BOTH, POSTGRESQL, SQLITE, Databases
from benchmarks.queue import rates
from benchmarks.queue.contestants import FLOOR, OURS, peers
from benchmarks.queue.processes import Entry, by_turns
from benchmarks.report import Report

CONCURRENCY: Final = (10, 50)
JOBS: Final = 60_000
FEWER_JOBS: Final = {"oban": 5_000, "chancy": 5_000, "procrastinate": 2_000}
"""The slower ones take long enough with these."""

REQUIRED: Final = 3.0
REQUIRED_TO_FLOOR: Final = 0.3
REQUIRED_ON_SQLITE: Final = 0.5


async def run(databases: Databases, report: Report) -> None:
    """Compare with the peers, and with one connection that finishes and claims 50 at a time."""
    contestants = [OURS, FLOOR, "pgqueuer, capped", *peers()]
    for concurrency in CONCURRENCY:
        found = await by_turns(
            databases, "drain", {name: _entry(name, concurrency) for name in contestants}
        )
        rates.table(report, f"Drain, {concurrency} jobs at a time", found)
        peer = rates.fastest_peer(found)
        for other, required in ((peer, REQUIRED), (FLOOR, REQUIRED_TO_FLOOR)):
            what = f"drain, {concurrency} at a time, to {other}"
            report.require(what, rates.ratio(found, other), at_least=required)


async def run_sqlite(databases: Databases, report: Report) -> None:
    """Compare ours on SQLite with ours on PostgreSQL."""
    for concurrency in CONCURRENCY:
        options = {"jobs": JOBS, "concurrency": concurrency}
        found = await by_turns(
            databases, "drain", {name: Entry(OURS, options, name) for name in BOTH}
        )
        rates.table(report, f"Drain, {concurrency} jobs at a time, ours", found, SQLITE)
        what = f"drain, {concurrency} at a time, {SQLITE} to {POSTGRESQL}"
        ratio = rates.ratio(found, POSTGRESQL, SQLITE)
        report.require(what, ratio, at_least=REQUIRED_ON_SQLITE)


def _entry(name: str, concurrency: int) -> Entry:
    return Entry(name, {"jobs": FEWER_JOBS.get(name, JOBS), "concurrency": concurrency})
