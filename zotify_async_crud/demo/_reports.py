"""What the demo tells while it runs, and what it tells in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from zotify_async_crud.schemas import DownloadJobStatus


class Stage(StrEnum):
    """A part of the work that takes long enough to watch."""

    SYNC = "Sync playlists"
    ENQUEUE = "Enqueue tracks"
    DOWNLOAD = "Download"


class Reporter(Protocol):
    """Whoever wants to know how far the demo is."""

    def say(self, line: str) -> None:
        """Take a remark."""

    def begin(self, stage: Stage, total: int) -> None:
        """Take note that *stage* begins and has *total* steps, which may be none."""

    def advance(self, stage: Stage, steps: int = 1) -> None:
        """Take note that *steps* more of *stage* are done."""

    def fail(self, stage: Stage) -> None:
        """Take note that a step of *stage* failed and will be tried again."""


@dataclass(frozen=True, slots=True)
class Totals:
    """How many rows there are in the database."""

    playlists: int
    tracks: int
    jobs: Mapping[DownloadJobStatus, int]

    @property
    def unfinished_jobs(self) -> int:
        """Jobs that are not completed."""
        return sum(self.jobs.values()) - self.jobs[DownloadJobStatus.COMPLETED]


@dataclass(slots=True)
class Downloads:
    """What the workers of one run have done."""

    completed: int = 0
    failed_attempts: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a run; ``seconds`` is the time that downloading took."""

    totals: Totals
    downloads: Downloads
    token_refreshes: int
    skipped: int
    seconds: float
    database: str

    @property
    def rate(self) -> float:
        """Jobs completed in a second."""
        return self.downloads.completed / self.seconds
