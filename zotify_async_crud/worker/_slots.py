"""The books of a pool: what it has claimed, what runs, and what is over and not written yet."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Final

from zotify_async_crud.schemas import Claim, DownloadJobStatus, Exchange, Renewal, Settlement
from zotify_async_crud.worker._backoff import Backoff
from zotify_async_crud.worker._hooks import Counts, Outcome, WorkerHooks
from zotify_async_crud.worker._jobs import Attempt, Handler, JobContext, Token, settle, token

_LOG: Final = logging.getLogger("zotify_async_crud.worker")


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
        self._over += over

    def exchanged(self, over: list[Attempt], exchange: Exchange) -> None:
        """Take note that *over* has been written, as far as it was not lost, and what came."""
        self._on_their_way.remove(over)
        lost = set(exchange.lost)
        for attempt in over:
            missed = lost and attempt.claim in lost
            self._count(attempt, Outcome.LOST if missed else attempt.outcome)
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
        self._fill()

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
            self._count(attempt, Outcome.LOST)
        self._running.clear()
        self.changed.set()

    def _fill(self) -> None:
        while self._ready and len(self._running) < self._size:
            attempt = self._ready.popleft()
            self._running[token(attempt.claim)] = attempt
            if self._hooks:
                self._tell(self._hooks.started, attempt.claim)
            work = settle(
                self._handler, JobContext(attempt, self.reported.set), attempt, self._backoff
            )
            # else it would have the context of the job whose end made room
            attempt.task = asyncio.create_task(work, context=self._context.copy())
            attempt.task.add_done_callback(functools.partial(self._ended, attempt))

    def _ended(self, attempt: Attempt, task: asyncio.Task[Settlement]) -> None:
        broken_off = task.cancelled() or task.exception() is not None
        if self._running.pop(token(attempt.claim), None) is None:
            return  # abandoned meanwhile
        if attempt.lost:
            self._count(attempt, Outcome.LOST)
        elif broken_off:  # before its first step, or with the whole process
            self._release(attempt)
        else:
            attempt.settlement = task.result()
            self._over.append(attempt)
        self._fill()
        self.changed.set()

    def _lose(self, claim: Claim) -> None:
        if running := self._running.get(token(claim)):
            _LOG.warning("attempt %d at job %s lost its lease", claim.attempt, claim.job_id)
            running.give_up()
        elif waiting := self._take_ready(claim):
            self._count(waiting, Outcome.LOST)

    def _take_ready(self, claim: Claim) -> Attempt | None:
        for attempt in self._ready:
            if token(attempt.claim) == token(claim):
                self._ready.remove(attempt)
                return attempt
        return None

    def _release(self, attempt: Attempt) -> None:
        attempt.settlement = Settlement(attempt.claim, DownloadJobStatus.PENDING)
        self._over.append(attempt)

    def _count(self, attempt: Attempt, outcome: Outcome) -> None:
        self.counts.add(outcome)
        if self._hooks:
            self._tell(self._hooks.finished, attempt.claim, outcome, attempt.duration)

    def _tell(self, hook: Callable[..., None], *facts: object) -> None:
        try:
            hook(*facts)
        except Exception:  # noqa: BLE001 - whatever it raises, the work goes on
            _LOG.exception("a hook of the worker pool failed")
