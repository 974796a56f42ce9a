"""Medians, ratios and their spread."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times *slow* is *quick*: the median of the rounds, and the lowest and highest."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, slow: Sequence[float], quick: Sequence[float]) -> Ratio:
        """Compare round by round; who ran once is compared with each round of the other."""
        rounds = max(len(slow), len(quick))
        ratios = [
            a / b for a, b in zip(_stretched(slow, rounds), _stretched(quick, rounds), strict=True)
        ]
        return cls(median(ratios), min(ratios), max(ratios), rounds)

    def __str__(self) -> str:
        digits = 2 if self.high < 10 else 1  # noqa: PLR2004
        shown = (f"{figure:.{digits}f}" for figure in (self.median, self.low, self.high))
        return "{} ({}-{})".format(*shown)


def _stretched(figures: Sequence[float], length: int) -> Sequence[float]:
    return figures if len(figures) > 1 else [*figures] * length


def percentile(figures: Sequence[float], share: float) -> float:
    """Return the figure that *share* of all, from 0 to 1, do not exceed."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * share))]


async def timed(work: Awaitable[T]) -> tuple[float, T]:
    """Return the seconds that *work* took, and what it returned."""
    started = time.perf_counter()
    outcome = await work
    return time.perf_counter() - started, outcome
