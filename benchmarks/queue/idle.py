"""What a worker without jobs asks of the database."""

from __future__ import annotations

from typing import Final

from benchmarks.databases import BOTH, POSTGRESQL, SQLITE, Databases
from benchmarks.figures import Ratio
from benchmarks.queue.contestants import OURS, peers
from benchmarks.queue.measures import Figures
from benchmarks.queue.processes import Entry, by_turns
from benchmarks.report import Report

SECONDS: Final = 10
CONCURRENCY: Final = 10
REQUIRED: Final = {SQLITE: 1.0, POSTGRESQL: 2.0}
"""Statements in a second at most. A poll of PostgreSQL claims, and asks when it would be worth."""


async def run(databases: Databases, report: Report) -> None:
    """Count statements and transactions while nothing is enqueued."""
    options = {"seconds": SECONDS, "concurrency": CONCURRENCY}
    entries = {f"{OURS}, {name}": Entry(OURS, options, name) for name in BOTH}
    entries |= {peer: Entry(peer, options) for peer in peers()}
    found = await by_turns(databases, "idle", entries, rounds=1)
    header = ["", "statements/s", "transactions/s", "client ms/s", "server ms/s"]
    rows = [[name, *_shown(figures)] for name, (figures,) in found.items()]
    report.table(f"A worker with nothing to do for {SECONDS} s", header, rows)
    for name in BOTH:
        (figures,) = found[f"{OURS}, {name}"]
        for statement, times in figures["statements"].items():
            report.line(f"{name}, {times} times: {statement}")
        a_second = _a_second(figures, "sent")
        ratio = Ratio(a_second, a_second, a_second, 1)
        report.require(f"{name}, statements/s of an idle worker", ratio, at_most=REQUIRED[name])


def _shown(figures: Figures) -> list[object]:
    return [
        # the peers send theirs without SQLAlchemy, where none is seen
        f"{_a_second(figures, 'sent'):.1f}" if figures["sent"] else "-",
        "-" if figures["transactions"] is None else f"{_a_second(figures, 'transactions'):.1f}",
        f"{_a_second(figures, 'client') * 1e3:.2f}",
        "-" if figures["server"] is None else f"{_a_second(figures, 'server') * 1e3:.2f}",
    ]


def _a_second(figures: Figures, what: str) -> float:
    counted: float = figures[what] / figures["wall"]
    return counted
