"""How soon an idle worker has a job that another process enqueues."""

from __future__ import annotations

from statistics import median
from typing import Final

from benchmarks.databases import POSTGRESQL, Databases
from benchmarks.figures import Ratio, percentile
from benchmarks.queue.contestants import OURS, peers
from benchmarks.queue.processes import ROUNDS, run_two
from benchmarks.report import Report

JOBS: Final = 200
EVERY: Final = 0.05
"""Seconds between two jobs."""
CONCURRENCY: Final = 10
REQUIRED: Final = 1.0
SHARES: Final = {"median": 0.5, "p99": 0.99}

_CRUD: Final = "zotify-async-crud, crud"


async def run(databases: Databases, report: Report) -> None:
    """Compare the median and the slowest hundredth, each peer told by its notifications."""
    contestants = [OURS, _CRUD, *peers()]
    waited: dict[str, list[list[float]]] = {name: [] for name in contestants}
    for number in range(ROUNDS):
        for name in contestants[number:] + contestants[:number]:
            waited[name].append(await _wait(databases, name))
    rows = [[name, *(_shown(waited[name], share) for share in SHARES.values())] for name in waited]
    title = f"Milliseconds from before enqueuing until the handler begins, {JOBS} jobs a round"
    report.table(title, ["", *(f"{name} (min-max)" for name in SHARES)], rows)
    for name, share in SHARES.items():
        quickest = min(peers(), key=lambda peer: median(_rounds(waited[peer], share)))
        for ours in (OURS, _CRUD):
            ratio = Ratio.of(_rounds(waited[ours], share), _rounds(waited[quickest], share))
            report.require(f"{ours}, pickup's {name}, to {quickest}", ratio, at_most=REQUIRED)


async def _wait(databases: Databases, name: str) -> list[float]:
    """Return the seconds that each job waited."""
    async with databases.fresh(POSTGRESQL) as database:
        worker = {"jobs": JOBS, "concurrency": CONCURRENCY}
        producer = {"jobs": JOBS, "every": EVERY}
        figures = await run_two(name, database.url, worker, producer)
    waited: list[float] = figures["waited"]
    return waited


def _rounds(waited: list[list[float]], share: float) -> list[float]:
    return [percentile(seconds, share) for seconds in waited]


def _shown(waited: list[list[float]], share: float) -> str:
    rounds = [seconds * 1e3 for seconds in _rounds(waited, share)]
    return f"{median(rounds):,.1f} ({min(rounds):,.1f}-{max(rounds):,.1f})"
