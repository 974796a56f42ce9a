"""What it costs to enqueue: many jobs at once, and one at a time from many callers."""

from __future__ import annotations

from typing import Final

from benchmarks.databases import Databases
from benchmarks.queue import rates
from benchmarks.queue.contestants import FLOOR, OURS, peers
from benchmarks.queue.processes import Entry, by_turns
from benchmarks.report import Report

BULK: Final = 10_000
TRANSACTIONS: Final = 5
REQUIRED_BULK: Final = 3.0

JOBS: Final = 4_000
CALLERS: Final = (8, 64)
CONNECTIONS: Final = {8: 5, 64: 10}
"""How many connections so many callers share; the peers are slower with more."""

REQUIRED: Final = 1.0


async def run_bulk(databases: Databases, report: Report) -> None:
    """Compare one transaction with many jobs."""
    contestants = [OURS, f"{OURS}, objects", FLOOR, "floor, COPY", *peers()]
    options = {"jobs": BULK, "transactions": TRANSACTIONS}
    entries = {name: Entry(name, options) for name in contestants}
    found = await by_turns(databases, "bulk", entries)
    rates.table(report, f"Jobs enqueued, {BULK:,} in each transaction, committed", found)
    peer = rates.fastest_peer(found)
    for ours in contestants[:2]:
        what = f"{BULK:,} jobs in one transaction, {ours} to {peer}"
        report.require(what, rates.ratio(found, peer, ours), at_least=REQUIRED_BULK)


async def run(databases: Databases, report: Report) -> None:
    """Compare callers that each enqueue one job after another, each committed."""
    contestants = [OURS, "zotify-async-crud, crud", FLOOR, "floor, NOTIFY", *peers()]
    for callers in CALLERS:
        found = await by_turns(
            databases, "enqueue", {name: _entry(name, callers) for name in contestants}
        )
        rates.table(report, f"Jobs enqueued one by one, {callers} callers", found)
        peer = rates.fastest_peer(found)
        what = f"{callers} callers that enqueue, to {peer}"
        report.require(what, rates.ratio(found, peer), at_least=REQUIRED)


def _entry(name: str, callers: int) -> Entry:
    connections = callers if name == FLOOR else CONNECTIONS[callers]
    return Entry(name, {"jobs": JOBS, "callers": callers, "connections": connections})
