"""What the demo tells while it runs, and what it tells in the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from zotify_async_crud.schemas import DownloadJobStatus


class Stage(StrEnum):
    """A part of the work that takes long enough to watch."""

    IMPORT = "Import"
    SYNC = "Sync playlists"
    ENQUEUE = "Enqueue tracks"
    DOWNLOAD = "Download"


class Reporter(Protocol):
    """Whoever wants to know how far the demo is."""

    def say(self, line: str) -> None:
        """Take a remark."""

    def show(self, stage: Stage, done: int, total: int, failed: int = 0) -> None:
        """Take note that of *stage* so many steps are done, of a total that may change.

        *failed* are attempts that did not succeed, and are tried again.
        """


@dataclass(frozen=True, slots=True)
class Jobs:
    """The jobs in the database at one moment."""

    by_status: Mapping[DownloadJobStatus, int]

    claimed: int
    """Those in progress that a worker holds by a lease; the others are no business of a pool."""

    failed_attempts: int
    """Attempts that are over and have not completed their jobs."""

    @property
    def completed(self) -> int:
        """Jobs that are completed."""
        return self.by_status[DownloadJobStatus.COMPLETED]

    @property
    def active(self) -> int:
        """Jobs that workers have, or will have by themselves."""
        return self.by_status[DownloadJobStatus.PENDING] + self.claimed

    @property
    def left(self) -> int:
        """Jobs that are to be completed yet."""
        return self.active + self.by_status[DownloadJobStatus.FAILED]

    @property
    def foreign(self) -> int:
        """Jobs in progress without a lease, which nobody can take from whoever picked them up."""
        return self.by_status[DownloadJobStatus.IN_PROGRESS] - self.claimed


@dataclass(frozen=True, slots=True)
class Downloads:
    """The jobs that each worker of one run has completed, and how long it took them together."""

    by_worker: tuple[int, ...]
    seconds: float

    @property
    def completed(self) -> int:
        """Jobs completed by all workers."""
        return sum(self.by_worker)

    @property
    def rate(self) -> float:
        """Jobs completed in a second."""
        return self.completed / self.seconds


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a run."""

    playlists: int
    tracks: int
    jobs: Jobs
    downloads: Downloads
    failed_attempts: int
    token_refreshes: int
    skipped: int
    database: str
