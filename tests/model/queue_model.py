"""What the download queue promises, as a plain dictionary: the model that the databases must match.

It knows no clock. Whether a job is due, or a lease over, is a fact that the test decides on; the
moments that a database chooses are taken over from its rows.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from zotify_async_crud.errors import DownloadJobClaimed, DownloadJobExists
from zotify_async_crud.schemas import (
    FINISHED,
    Claim,
    DownloadJobCreate,
    DownloadJobStatus,
    DownloadQueueStats,
    OnDuplicate,
    Rescue,
    Settlement,
)

PENDING: Final = DownloadJobStatus.PENDING
IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS
COMPLETED: Final = DownloadJobStatus.COMPLETED
FAILED: Final = DownloadJobStatus.FAILED
CANCELLED: Final = DownloadJobStatus.CANCELLED


@dataclasses.dataclass
class Job:
    """One job, with what the test knows of its times."""

    track_id: str
    priority: int
    max_attempts: int
    is_unique: bool
    is_scheduled: bool
    """Whether it is not due yet."""

    status: DownloadJobStatus = PENDING
    attempt: int = 0
    worker_id: str | None = None
    progress: float = 0.0
    error_message: str | None = None
    cancel_requested: bool = False
    has_lease: bool = False
    has_expired: bool = False
    has_started: bool = False

    created_at: dt.datetime | None = None
    available_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    """Taken over from the row."""

    @property
    def is_active(self) -> bool:
        """Whether it is pending or in progress."""
        return self.status in {PENDING, IN_PROGRESS}

    @property
    def turn(self) -> dt.datetime:
        """Since when it is due."""
        moment = self.available_at or self.created_at
        assert moment is not None
        return moment

    def row(self) -> dict[str, Any]:
        """Return what the row must hold, and of times whether there is one."""
        return {
            "track_id": self.track_id,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "is_unique": self.is_unique,
            "status": self.status,
            "attempt": self.attempt,
            "worker_id": self.worker_id,
            "progress": self.progress,
            "error_message": self.error_message,
            "cancel_requested": self.cancel_requested,
            "lease_expires_at": self.has_lease,
            "started_at": self.has_started,
            "finished_at": self.status in FINISHED,
        }

    def end(self, status: DownloadJobStatus) -> None:
        """Let an attempt be over."""
        self.status, self.has_lease, self.has_expired = status, False, False
        if status is PENDING:
            self.worker_id, self.progress = None, 0.0
        if status is COMPLETED:
            self.progress = 1.0

    def unfinished(self, *, goes_on: bool) -> DownloadJobStatus:
        """Return what it becomes when an attempt ends without success."""
        if self.cancel_requested:
            return CANCELLED
        return PENDING if goes_on else FAILED


class QueueModel:
    """The queue."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.is_paused = False

    # what there is

    def rival(self, job: DownloadJobCreate) -> str | None:
        """Return the id of the unique job that stands in the way of a new one."""
        return self._active_unique(job.track_id) if job.unique else None

    def _active_unique(self, track_id: str, *, but: str = "") -> str | None:
        for job_id, job in self.jobs.items():
            if job_id != but and job.is_unique and job.is_active and job.track_id == track_id:
                return job_id
        return None

    def due(self) -> list[str]:
        """Return the ids of what can be claimed, in order."""
        if self.is_paused:
            return []
        waiting = [
            (-job.priority, job.turn, job_id)
            for job_id, job in self.jobs.items()
            if job.status is PENDING and not job.is_scheduled
        ]
        return [job_id for *_, job_id in sorted(waiting)]

    def holds(self, claim: Claim) -> bool:
        """Tell whether *claim* is its job's own."""
        job = self.jobs.get(claim.job_id)
        return (
            job is not None
            and job.has_lease
            and (job.attempt, job.worker_id) == (claim.attempt, claim.worker_id)
        )

    def has_finished(self, claim: Claim) -> bool:
        """Tell whether *claim* is the one that finished its job."""
        job = self.jobs.get(claim.job_id)
        return (
            job is not None
            and job.status in FINISHED
            and (job.attempt, job.worker_id) == (claim.attempt, claim.worker_id)
        )

    def held_by(self, worker_id: str) -> set[tuple[str, int]]:
        """Return the claims of a worker."""
        return {
            (job_id, job.attempt)
            for job_id, job in self.jobs.items()
            if job.has_lease and job.worker_id == worker_id
        }

    def stats(self) -> DownloadQueueStats:
        """Return what the queue tells of itself, but for the age of its oldest job."""
        counts = Counter(job.status for job in self.jobs.values())
        scheduled = sum(job.status is PENDING and job.is_scheduled for job in self.jobs.values())
        return DownloadQueueStats(
            pending=counts[PENDING] - scheduled,
            scheduled=scheduled,
            in_progress=counts[IN_PROGRESS],
            failed=counts[FAILED],
            completed_last_minute=counts[COMPLETED],
            oldest_pending_age=None,
            paused=self.is_paused,
        )

    # what happens

    def create(self, wanted: Sequence[DownloadJobCreate], policy: OnDuplicate) -> list[str | int]:
        """Return for each job that is not left out the id of its rival or the place of the new one.

        Raises:
            DownloadJobExists: By *policy*.
        """
        first: dict[str, int] = {}
        found: list[str | int] = []
        for place, job in enumerate(wanted):
            rival = self.rival(job)
            known = rival if rival is not None else first.get(job.track_id) if job.unique else None
            if known is not None and policy is OnDuplicate.ERROR:
                raise DownloadJobExists
            if known is None or policy is OnDuplicate.EXISTING:
                found.append(place if known is None else known)
            if job.unique:
                first.setdefault(job.track_id, place)
        return found

    def add(self, job_id: str, job: DownloadJobCreate, *, is_scheduled: bool) -> None:
        """Let there be a new job."""
        assert job_id not in self.jobs
        self.jobs[job_id] = Job(
            job.track_id,
            job.priority,
            job.max_attempts,
            job.unique,
            is_scheduled,
            available_at=job.available_at,
        )

    def claim(self, worker_id: str, limit: int) -> list[tuple[str, str, int, int, str]]:
        """Give the next jobs to a worker; return their claims without the ends of the leases."""
        claims = []
        for job_id in self.due()[:limit]:
            job = self.jobs[job_id]
            job.status, job.worker_id, job.progress = IN_PROGRESS, worker_id, 0.0
            job.has_lease, job.has_expired, job.has_started = True, False, True
            job.attempt += 1
            claims.append((job_id, job.track_id, job.attempt, job.max_attempts, worker_id))
        return claims

    def settle(self, settlement: Settlement) -> DownloadJobStatus | None:
        """End a claim; return what the job is now, or None if the claim does not hold."""
        if not self.holds(settlement.claim):
            return None
        job = self.jobs[settlement.claim.job_id]
        has_attempts = job.attempt < job.max_attempts
        if settlement.outcome is COMPLETED:
            job.end(COMPLETED)
            job.error_message = None
        elif settlement.outcome is FAILED:
            retries = settlement.retry_in is not None and has_attempts
            job.end(job.unfinished(goes_on=retries))
            job.error_message = settlement.error
            if job.status is PENDING:
                assert settlement.retry_in is not None
                job.is_scheduled = settlement.retry_in > dt.timedelta(0)
                job.available_at = None  # the row's is taken over
        else:
            job.end(job.unfinished(goes_on=True))
            job.max_attempts += 1
        return job.status

    def expire(self, job_ids: Collection[str]) -> None:
        """Let leases be over."""
        for job_id in job_ids:
            job = self.jobs.get(job_id)
            if job is not None and job.has_lease:
                job.has_expired = True

    def renew(self, claim: Claim) -> None:
        """Prolong a lease."""
        self.jobs[claim.job_id].has_expired = False

    def rescue(self) -> Rescue:
        """Take the jobs whose leases are over."""
        became: Counter[DownloadJobStatus] = Counter()
        for job in self.jobs.values():
            if job.has_expired:
                job.error_message = (
                    f"worker {job.worker_id} did not renew its lease"
                    f" in attempt {job.attempt} of {job.max_attempts}"
                )
                job.end(job.unfinished(goes_on=job.attempt < job.max_attempts))
                job.worker_id = None
                became[job.status] += 1
        return Rescue(became[PENDING], became[FAILED], became[CANCELLED])

    def cancel(self, job_id: str) -> None:
        """Cancel a job, or ask its worker to stop."""
        job = self.jobs[job_id]
        if job.is_active:
            job.cancel_requested = True
        if job.status is PENDING:
            job.status = CANCELLED

    def retry_failed(self) -> int:
        """Give the failed jobs back; of unique ones what a track may have, the newest."""
        back = [job_id for job_id, job in self.jobs.items() if self._may_come_back(job_id, job)]
        for job_id in back:
            job = self.jobs[job_id]
            job.status, job.error_message, job.progress = PENDING, None, 0.0
            job.worker_id, job.cancel_requested = None, False
            job.is_scheduled, job.available_at = False, None
        return len(back)

    def _may_come_back(self, job_id: str, job: Job) -> bool:
        if job.status is not FAILED:
            return False
        newer = any(
            other.status is FAILED
            and other.is_unique
            and other.track_id == job.track_id
            and other_id > job_id
            for other_id, other in self.jobs.items()
        )
        return not job.is_unique or not (newer or self._active_unique(job.track_id))

    def set_status(
        self, job_id: str, status: DownloadJobStatus, error: str | None, progress: float | None
    ) -> None:
        """Overwrite a job's status.

        Raises:
            DownloadJobClaimed: A worker holds it.
            DownloadJobExists: A unique rival is active.
        """
        job = self.jobs[job_id]
        if job.has_lease and not job.has_expired:
            raise DownloadJobClaimed(job_id)
        becomes_active = status in {PENDING, IN_PROGRESS}
        if becomes_active and job.is_unique and self._active_unique(job.track_id, but=job_id):
            raise DownloadJobExists
        if status is IN_PROGRESS:
            job.attempt += job.status is not IN_PROGRESS
            job.has_started = True
        else:
            job.cancel_requested = False
        job.status, job.error_message, job.worker_id = status, error, None
        job.has_lease, job.has_expired = False, False
        if progress is not None:
            job.progress = progress

    def check_pruned(
        self, left: Collection[str], statuses: Collection[DownloadJobStatus], limit: int
    ) -> None:
        """Forget the jobs that are not *left*, which must be those that finished first."""
        old = [job_id for job_id, job in self.jobs.items() if job.status in statuses]
        gone = self.jobs.keys() - left
        assert gone <= set(old)
        assert len(gone) == min(limit, len(old))
        kept = [self._finished_at(job_id) for job_id in set(old) - gone]
        for job_id in gone:
            assert all(self._finished_at(job_id) <= moment for moment in kept)
            del self.jobs[job_id]

    def _finished_at(self, job_id: str) -> dt.datetime:
        moment = self.jobs[job_id].finished_at
        assert moment is not None
        return moment

    # what the rows say

    def take_over_times(self, rows: dict[str, dict[str, Any]]) -> None:
        """Learn the moments that the database chose."""
        for job_id, job in self.jobs.items():
            row = rows[job_id]
            job.created_at, job.finished_at = row["created_at"], row["finished_at"]
            job.available_at = row["available_at"]

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what the rows must hold."""
        for job_id, job in self.jobs.items():
            yield job_id, job.row()
