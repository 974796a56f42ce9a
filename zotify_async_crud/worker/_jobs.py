"""One attempt at a job: what its handler sees, and what becomes of what it does."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, cast

from zotify_async_crud import _validation as check
from zotify_async_crud._backoff import Backoff, ExponentialBackoff
from zotify_async_crud.errors import LeaseLost
from zotify_async_crud.fields import ERROR_MAX_LENGTH
from zotify_async_crud.schemas import Claim, DownloadJobStatus, Settlement
from zotify_async_crud.worker._hooks import Outcome

_LOG: Final = logging.getLogger("zotify_async_crud.worker")


class Retry(Exception):
    """Raised by a handler: the attempt failed, try again *in_* that time if attempts are left.

    *in_* is a timedelta, or seconds; None leaves it to the pool's backoff.
    """

    in_: dt.timedelta | None = None

    def __init__(self, reason: str = "", *, in_: dt.timedelta | float | None = None) -> None:
        super().__init__(reason)
        self.in_ = check.validated("in_", check.OPTIONAL_DURATION, in_)


class Discard(Exception):
    """Raised by a handler: the job has failed, and trying again would not help."""


Token: TypeAlias = tuple[str, int]


def token(claim: Claim) -> Token:
    """Return what tells attempts apart: a job may be claimed again before its last is written."""
    return claim.job_id, claim.attempt


class Attempt:
    """An attempt that a pool has claimed: its handler's task, and what others want of it."""

    __slots__ = (
        "cancel_requested",
        "claim",
        "doubtful",
        "duration",
        "lost",
        "progress",
        "released",
        "settlement",
        "task",
    )

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.task: asyncio.Task[Any]  # once it has begun
        self.settlement: Settlement  # once it is over
        self.duration = 0.0
        self.progress: float | None = None
        self.cancel_requested = self.released = self.lost = False
        self.doubtful = False  # whether its settlement was sent and the reply did not come

    @property
    def outcome(self) -> Outcome:
        """How it ended, if what is to be written of it can be written."""
        if self.settlement.outcome is DownloadJobStatus.COMPLETED:
            return Outcome.COMPLETED
        is_released = self.settlement.outcome is DownloadJobStatus.PENDING
        return Outcome.RELEASED if is_released else Outcome.FAILED

    def give_back(self) -> None:
        """Stop the handler, so that another worker can have the job."""
        self.released = True
        self.task.cancel()

    def give_up(self) -> None:
        """Stop the handler, since its job may be another worker's by now."""
        self.lost = True
        self.task.cancel()


class JobContext:
    """What a handler knows of its job, and what it can say of it."""

    __slots__ = ("_attempt", "_reported")

    def __init__(self, attempt: Attempt, reported: Callable[[], None]) -> None:
        self._attempt, self._reported = attempt, reported

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self._attempt.claim.job_id

    @property
    def track_id(self) -> str:
        """The track to download."""
        return self._attempt.claim.track_id

    @property
    def attempt(self) -> int:
        """The number of this attempt, from 1 on."""
        return self._attempt.claim.attempt

    @property
    def claim(self) -> Claim:
        """The claim, for ``crud.complete_download_job`` in a transaction of the handler's own."""
        return self._attempt.claim

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody wants the job to be cancelled; it is, if the handler now raises."""
        return self._attempt.cancel_requested

    async def report(self, progress: float) -> None:
        """Say how far the job is, from 0.0 to 1.0; what stands in the database follows in a second.

        Raises:
            InvalidValue: *progress* is no number between 0 and 1.
            LeaseLost: Another worker may have the job; stop.
        """
        self._attempt.progress = check.validated("progress", check.PROGRESS_ALWAYS, progress)
        if self._attempt.lost:
            raise LeaseLost(self.job_id, self.attempt)
        self._reported()


Handler: TypeAlias = Callable[[JobContext], Awaitable[None]]
"""Does a job. It may raise ``Retry`` or ``Discard``; any other exception is a failed attempt."""


async def settle(
    handler: Handler, context: JobContext, attempt: Attempt, backoff: Backoff
) -> Settlement:
    """Call *handler*, and return what is to be written of what came of it."""
    claim, started = attempt.claim, time.perf_counter()
    attempt.task = cast("asyncio.Task[Any]", asyncio.current_task())
    try:
        await handler(context)
    except Discard as error:
        return _failure(claim, error, None)
    except Retry as retry:
        return _failure(claim, retry, retry.in_ if retry.in_ is not None else _wait(backoff, claim))
    except KeyboardInterrupt:
        raise  # it is the process's affair
    except BaseException as error:  # noqa: BLE001 - it is the job's failure, whatever it is
        if attempt.released:
            return Settlement(claim, DownloadJobStatus.PENDING)
        return _failure(claim, error, _wait(backoff, claim))
    else:
        return Settlement(claim, DownloadJobStatus.COMPLETED)
    finally:
        attempt.duration = time.perf_counter() - started


def _wait(backoff: Backoff, claim: Claim) -> dt.timedelta:
    try:
        return check.validated("backoff", check.DURATION, backoff(claim.attempt))
    except Exception:  # noqa: BLE001 - whatever it raises, the job is tried again
        _LOG.exception("the backoff failed: the default is used")
        return dt.timedelta(seconds=ExponentialBackoff()(claim.attempt))


def _failure(claim: Claim, error: BaseException, retry_in: dt.timedelta | None) -> Settlement:
    return Settlement(claim, DownloadJobStatus.FAILED, _describe(error), retry_in)


def _describe(error: BaseException) -> str:
    """Return what an error says, as text that every database takes."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - it is a handler's, too
        said = "its message cannot be shown"
    named = isinstance(error, Retry | Discard) and said
    text = said if named else f"{type(error).__name__}: {said}" if said else type(error).__name__
    storable = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    return storable[:ERROR_MAX_LENGTH]
