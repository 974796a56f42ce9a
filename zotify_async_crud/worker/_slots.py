"""The books of a pool: what it has claimed, what runs, and what is over and not written yet."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final

from zotify_async_crud._backoff import Backoff
from zotify_async_crud._tasks import begin
from zotify_async_crud.schemas import Claim, DownloadJobStatus, Exchange, Renewal, Settlement
from zotify_async_crud.worker._hooks import Counts, Outcome, WorkerHooks
from zotify_async_crud.worker._jobs import Attempt, Handler, JobContext, Token, settle, token

_LOG: Final = logging.getLogger("zotify_async_crud.worker")

_LONGEST_TURN: Final = 0.005
"""Seconds in which handlers that never wait may hold up the event loop, one after the other."""


class Slots:
    """Runs handlers, as many at once as there are slots, and keeps what comes of them."""

    def __init__(
        self, handler: Handler, size: int, backoff: Backoff, hooks: WorkerHooks | None
    ) -> None:
        self._handler, self._size, self._backoff, self._hooks = handler, size, backoff, hooks
        self._ready: deque[Attempt] = deque()
        self._running: dict[Token, Attempt] = {}
        self._over: list[Attempt] = []
        self._on_their_way: list[list[Attempt]] = []
        self._stopping = False
        self._context = contextvars.copy_context()
        self.counts = Counts()
        self.changed = asyncio.Event()
        self.reported = asyncio.Event()

    @property
    def taken(self) -> int:
        """Attempts that have a slot or wait for one."""
        return len(self._running) + len(self._ready)

    @property
    def has_waiting(self) -> bool:
        """Whether attempts wait for a slot."""
        return bool(self._ready)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing that runs, waits, or is to be written."""
        return not (self._running or self._ready or self._over or self._on_their_way)

    @property
    def unwritten(self) -> int:
        """Attempts that are over, of which the database has not been told."""
        return len(self._over)

    def take_over(self) -> list[Attempt]:
        """Return what is to be written; ``exchanged`` or ``put_back`` then says what came of it."""
        over, self._over = self._over, []
        self._on_their_way.append(over)
        return over

    def put_back(self, over: list[Attempt]) -> None:
        """Take note that *over* may not have been written."""
        self._on_their_way.remove(over)
        for attempt in over:
            attempt.doubtful = True
        self._over += over

    def exchanged(self, over: list[Attempt], exchange: Exchange) -> None:
        """Take note that *over* has been written, as far as it was not lost, and what came."""
        self._on_their_way.remove(over)
        lost = set(exchange.lost)
        self._count(over, [_missed(a) if lost and a.claim in lost else a.outcome for a in over])
        self.add(exchange.claims)

    def claims(self) -> list[Claim]:
        """Return every claim whose lease is to be kept."""
        held = chain(self._ready, self._running.values(), self._over, *self._on_their_way)
        return [attempt.claim for attempt in held if not attempt.lost]

    def reports(self) -> dict[Claim, float]:
        """Return the progress that was reported and is not written yet."""
        self.reported.clear()
        running = self._running.values()
        return {a.claim: a.progress for a in running if a.progress is not None and not a.lost}

    def reports_written(self, progress: Mapping[Claim, float]) -> None:
        """Take note that *progress* has been written."""
        for attempt in self._running.values():
            if attempt.progress == progress.get(attempt.claim):
                attempt.progress = None

    def add(self, claims: Sequence[Claim]) -> None:
        """Let handlers begin as soon as there are slots."""
        self.counts.claimed += len(claims)
        if self._hooks and claims:
            self._tell(self._hooks.claimed, claims)
        self._ready.extend(map(Attempt, claims))
        if self._stopping:
            self.release_waiting()
        self._fill_soon()

    def renewed(self, renewal: Renewal) -> None:
        """Stop what has lost its lease, and pass on who wants a job to be cancelled."""
        for claim in renewal.lost:
            self._lose(claim)
        for claim in renewal.cancel_requested:
            if running := self._running.get(token(claim)):
                running.cancel_requested = True
            elif waiting := self._take_ready(claim):
                self._release(waiting)
                self.changed.set()

    def stop(self) -> None:
        """Give back what has not begun, and let nothing more begin."""
        self._stopping = True
        self.release_waiting()

    def release_waiting(self) -> None:
        """Give back what has not begun, though more may come."""
        while self._ready:
            self._release(self._ready.popleft())
        self.changed.set()

    def cancel_running(self) -> None:
        """Stop the handlers, and give back their jobs."""
        for attempt in list(self._running.values()):
            attempt.give_back()

    def abandon_running(self) -> None:
        """Leave alone the handlers that do not stop; their leases will run out."""
        for attempt in self._running.values():
            _LOG.error("the handler of job %s does not stop: abandoned", attempt.claim.job_id)
            attempt.lost = True
        self._count_lost(*self._running.values())
        self._running.clear()
        self.changed.set()

    def _fill(self) -> None:
        pause_at = time.perf_counter() + _LONGEST_TURN
        while self._ready and len(self._running) < self._size:
            if time.perf_counter() > pause_at:
                self._fill_soon()
                break
            self._begin(self._ready.popleft())
        self.changed.set()

    def _fill_soon(self) -> None:
        """Let handlers begin once the feeder has had its turn."""
        self.changed.set()
        asyncio.get_running_loop().call_soon(self._fill)

    def _begin(self, attempt: Attempt) -> None:
        self._running[token(attempt.claim)] = attempt
        if self._hooks:
            self._tell(self._hooks.started, attempt.claim)
        work = settle(self._handler, JobContext(attempt, self.reported.set), attempt, self._backoff)
        # with its own context, and not that of the job whose end made room
        task = attempt.task = begin(work, self._context.copy())
        if task.done():
            self._end(attempt, task)
            return
        task.add_done_callback(functools.partial(self._ended, attempt))

    def _ended(self, attempt: Attempt, task: asyncio.Task[Settlement]) -> None:
        self._end(attempt, task)
        self._fill()

    def _end(self, attempt: Attempt, task: asyncio.Task[Settlement]) -> None:
        broken_off = task.cancelled() or task.exception() is not None
        if self._running.pop(token(attempt.claim), None) is None:
            return  # abandoned meanwhile
        if attempt.lost:
            self._count_lost(attempt)
        elif broken_off:  # before its first step, or with the whole process
            self._release(attempt)
        else:
            attempt.settlement = task.result()
            self._over.append(attempt)

    def _lose(self, claim: Claim) -> None:
        if running := self._running.get(token(claim)):
            _LOG.warning("attempt %d at job %s lost its lease", claim.attempt, claim.job_id)
            running.give_up()
        elif waiting := self._take_ready(claim):
            self._count_lost(waiting)

    def _take_ready(self, claim: Claim) -> Attempt | None:
        for attempt in self._ready:
            if token(attempt.claim) == token(claim):
                self._ready.remove(attempt)
                return attempt
        return None

    def _release(self, attempt: Attempt) -> None:
        attempt.settlement = Settlement(attempt.claim, DownloadJobStatus.PENDING)
        self._over.append(attempt)

    def _count_lost(self, *attempts: Attempt) -> None:
        self._count(attempts, [Outcome.LOST] * len(attempts))

    def _count(self, attempts: Sequence[Attempt], outcomes: Sequence[Outcome]) -> None:
        self.counts.add(outcomes)
        if self._hooks:
            for attempt, outcome in zip(attempts, outcomes, strict=True):
                self._tell(self._hooks.finished, attempt.claim, outcome, attempt.duration)

    def _tell(self, hook: Callable[..., None], *facts: object) -> None:
        try:
            hook(*facts)
        except Exception:  # noqa: BLE001 - whatever it raises, the work goes on
            _LOG.exception("a hook of the worker pool failed")


def _missed(attempt: Attempt) -> Outcome:
    """Return how an attempt ended whose claim did not hold when its settlement was written.

    Where it was sent before, it was written then: a job that goes on does not tell by whom.
    """
    goes_on = attempt.outcome is not Outcome.COMPLETED
    return attempt.outcome if attempt.doubtful and goes_on else Outcome.LOST
