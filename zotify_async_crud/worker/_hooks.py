"""What a pool tells about its work, for metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from zotify_async_crud.schemas import Claim


class Outcome(StrEnum):
    """How an attempt at a job ended for the pool."""

    COMPLETED = "completed"
    FAILED = "failed"
    """The handler raised; the job may be tried again."""

    RELEASED = "released"
    """The pool stopped, and gave the job back."""

    LOST = "lost"
    """The lease was lost; another worker may have the job, and nothing was written."""


@dataclass(slots=True)
class Counts:
    """What a pool has done in one run: jobs claimed, and how the attempts at them ended."""

    claimed: int = 0
    completed: int = 0
    failed: int = 0
    released: int = 0
    lost: int = 0

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Count attempts that ended so."""
        for outcome in Outcome:
            setattr(self, outcome, getattr(self, outcome) + outcomes.count(outcome))


class WorkerHooks:
    """Called by the pool; override what a metrics exporter needs.

    The methods run in the pool's event loop and should only count. What they raise is logged.
    """

    def claimed(self, claims: Sequence[Claim]) -> None:
        """Take note of jobs that were claimed."""

    def started(self, claim: Claim) -> None:
        """Take note of an attempt whose handler is called now."""

    def finished(self, claim: Claim, outcome: Outcome, duration: float) -> None:
        """Take note of an attempt that is over, and of the seconds that its handler took.

        It is called once the outcome is in the database; a released job that had not been started
        has a duration of 0.
        """
