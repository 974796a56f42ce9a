"""Jobs per second, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Final, TypeAlias

from benchmarks.figures import Ratio
from benchmarks.queue.contestants import FLOOR, OURS, missing_peers, peers
from benchmarks.queue.measures import Figures
from benchmarks.report import Report

Found: TypeAlias = Mapping[str, Sequence[Figures]]

_HEADER: Final = ["", "jobs", "jobs/s", "min-max", "client µs", "server µs"]


def ratio(found: Found, other: str, ours: str = OURS) -> Ratio:
    """Return how many times as fast as *other* ours is, round by round."""
    return Ratio.of(_seconds_a_job(found[other]), _seconds_a_job(found[ours]))


def fastest_peer(found: Found) -> str:
    """Return who has the highest rate of those that are neither ours nor a floor."""
    peers = [name for name in found if not name.startswith((OURS, FLOOR))]
    return max(peers, key=lambda name: _rate(found[name]))


def table(report: Report, title: str, found: Found, ours: str = OURS) -> None:
    """Write a row for each: its rate, what a job costs the processors, and *ours* to it."""
    rows = [
        [name, *_figures(found[name]), "" if name == ours else ratio(found, name, ours)]
        for name in found
    ]
    report.table(title, [*_HEADER, f"{ours} to it (min-max)"], rows)
    missing = missing_peers()
    if missing and not found.keys().isdisjoint(peers()):
        report.line(f"not installed, so not measured: {', '.join(missing)}")


def _figures(figures: Sequence[Figures]) -> list[str]:
    rates = [1 / seconds for seconds in _seconds_a_job(figures)]
    return [
        f"{figures[0]['jobs']:,}",
        f"{_rate(figures):,.0f}",
        f"{min(rates):,.0f}-{max(rates):,.0f}",
        _processor(figures, "client"),
        _processor(figures, "server"),
    ]


def _rate(figures: Sequence[Figures]) -> float:
    return 1 / median(_seconds_a_job(figures))


def _seconds_a_job(figures: Sequence[Figures]) -> list[float]:
    return [found["wall"] / found["jobs"] for found in figures]


def _processor(figures: Sequence[Figures], where: str) -> str:
    if any(found[where] is None for found in figures):
        return "-"
    return f"{median(found[where] / found['jobs'] for found in figures) * 1e6:,.0f}"
