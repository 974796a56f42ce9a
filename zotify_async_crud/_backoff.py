"""How long what failed waits before it is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

Backoff: TypeAlias = Callable[[int], float]
"""Returns the seconds to wait after the attempt with this number, from 1 on."""


@dataclass(frozen=True, slots=True)
class ExponentialBackoff:
    """Waits twice as long after each attempt, and less by chance, so that jobs spread out.

    The wait after the first attempt is ``first`` seconds, no wait is longer than ``longest``, and
    up to ``jitter`` (a share, from 0 to 1) of it is left to chance.

    Source: "Exponential Backoff And Jitter",
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """

    first: float = 5.0
    longest: float = 600.0
    jitter: float = 0.5

    def __call__(self, attempt: int) -> float:
        """Return the seconds to wait after *attempt*."""
        doublings = min(attempt - 1, 63)  # a float has no room for 2 ** 2000
        wait = min(self.longest, self.first * 2.0**doublings)
        return wait * (1 - self.jitter * random.random())
