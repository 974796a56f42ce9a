"""The books of a pool: what it has claimed, what runs, and what is over and not written yet."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from zotify_async_crud.schemas import Claim, DownloadJobStatus, Exchange, Renewal, Settlement
from zotify_async_crud.worker._backoff import Backoff
from zotify_async_crud.worker._hooks import Counts, Outcome, WorkerHooks
from zotify_async_crud.worker._jobs import Attempt, Handler, JobContext, settlement

_LOG: Final = logging.getLogger("zotify_async_crud.worker")
_OUTCOMES: Final = {
    DownloadJobStatus.COMPLETED: Outcome.COMPLETED,
    DownloadJobStatus.FAILED: Outcome.FAILED,
    DownloadJobStatus.PENDING: Outcome.RELEASED,
}


_Token: TypeAlias = tuple[str, int]


def _token(claim: Claim) -> _Token:
    """Return what tells attempts apart: a job may be claimed again before its last is written."""
    return claim.job_id, claim.attempt


class Slots:
    """Runs handlers, as many at once as there are slots, and keeps what comes of them."""

    def __init__(
        self, handler: Handler, size: int, backoff: Backoff, hooks: WorkerHooks | None
    ) -> None:
        self._handler, self._size, self._backoff, self._hooks = handler, size, backoff, hooks
        self._ready: deque[Attempt] = deque()
        self._running: dict[str, Attempt] = {}
        self._over: dict[_Token, tuple[Attempt, Settlement]] = {}
        self._on_its_way: dict[_Token, tuple[Attempt, Settlement]] = {}
        self._stopping = False
        self.counts = Counts()
        self.changed = asyncio.Event()
        self.reported = asyncio.Event()

    @property
    def taken(self) -> int:
        """Attempts that have a slot or wait for one."""
        return len(self._running) + len(self._ready)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing that runs, waits, or is to be written."""
        return not (self._running or self._ready or self._over or self._on_its_way)

    @property
    def unwritten(self) -> int:
        """Attempts that are over, of which the database has not been told."""
        return len(self._over)

    def take_settlements(self) -> list[Settlement]:
        """Return what is to be written; ``exchanged`` or ``put_back`` then says what came of it."""
        over, self._over = self._over, {}
        self._on_its_way |= over
        return [settled for _, settled in over.values()]

    def put_back(self, settlements: Sequence[Settlement]) -> None:
        """Take note that *settlements* may not have been written."""
        for settled in settlements:
            token = _token(settled.claim)
            self._over[token] = self._on_its_way.pop(token)

    def claims(self) -> list[Claim]:
        """Return every claim whose lease is to be kept."""
        over = (attempt for attempt, _ in (*self._over.values(), *self._on_its_way.values()))
        return [attempt.claim for attempt in (*self._ready, *self._running.values(), *over)]

    def reports(self) -> dict[Claim, float]:
        """Return the progress that was reported and is not written yet."""
        self.reported.clear()
        running = self._running.values()
        return {a.claim: a.progress for a in running if a.progress is not None}

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
            self.release_ready()
        while self._ready and len(self._running) < self._size:
            self._start(self._ready.popleft())

    def exchanged(self, written: Sequence[Settlement], exchange: Exchange) -> None:
        """Take note of what the database has been told, and what it gave."""
        lost = set(map(_token, exchange.lost))
        for settled in written:
            token = _token(settled.claim)
            attempt, _ = self._on_its_way.pop(token)
            self._count(attempt, Outcome.LOST if token in lost else _OUTCOMES[settled.outcome])
        self.add(exchange.claims)

    def renewed(self, renewal: Renewal) -> None:
        """Stop what has lost its lease, and pass on who wants a job to be cancelled."""
        for claim in renewal.lost:
            self._lose(claim)
        for claim in renewal.cancel_requested:
            if attempt := self._running.get(claim.job_id):
                attempt.cancel_requested = True
            else:
                self._release_one(claim.job_id)

    def release_ready(self) -> None:
        """Give back what has not begun, and let nothing more begin."""
        self._stopping = True
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
            attempt.lost = True
            _LOG.error("the handler of job %s does not stop: abandoned", attempt.claim.job_id)
            self._count(attempt, Outcome.LOST)
        self._running.clear()
        self.changed.set()

    def _start(self, attempt: Attempt) -> None:
        self._running[attempt.claim.job_id] = attempt
        if self._hooks:
            self._tell(self._hooks.started, attempt.claim)
        attempt.task = asyncio.create_task(self._work(attempt))

    async def _work(self, attempt: Attempt) -> None:
        started = time.perf_counter()
        context = JobContext(attempt, self.reported.set)
        settled = await settlement(self._handler(context), attempt, self._backoff)
        attempt.duration = time.perf_counter() - started
        if self._running.get(attempt.claim.job_id) is not attempt:
            return  # abandoned meanwhile
        del self._running[attempt.claim.job_id]
        if settled is None:
            self._count(attempt, Outcome.LOST)
        else:
            self._over[_token(attempt.claim)] = (attempt, settled)
        if self._ready:
            self._start(self._ready.popleft())
        self.changed.set()

    def _lose(self, claim: Claim) -> None:
        running = self._running.get(claim.job_id)
        if running is not None and running.claim.attempt == claim.attempt:
            _LOG.warning("attempt %d at job %s lost its lease", claim.attempt, claim.job_id)
            running.give_up()
        elif waiting := self._take_ready(claim.job_id):
            self._count(waiting, Outcome.LOST)

    def _release_one(self, job_id: str) -> None:
        if waiting := self._take_ready(job_id):
            self._release(waiting)
            self.changed.set()

    def _take_ready(self, job_id: str) -> Attempt | None:
        for attempt in self._ready:
            if attempt.claim.job_id == job_id:
                self._ready.remove(attempt)
                return attempt
        return None

    def _release(self, attempt: Attempt) -> None:
        released = Settlement(attempt.claim, DownloadJobStatus.PENDING)
        self._over[_token(attempt.claim)] = (attempt, released)

    def _count(self, attempt: Attempt, outcome: Outcome) -> None:
        setattr(self.counts, outcome, getattr(self.counts, outcome) + 1)
        if self._hooks:
            self._tell(self._hooks.finished, attempt.claim, outcome, attempt.duration)

    def _tell(self, hook: Callable[..., None], *facts: object) -> None:
        try:
            hook(*facts)
        except Exception:  # noqa: BLE001 - whatever it raises, the work goes on
            _LOG.exception("a hook of the worker pool failed")
