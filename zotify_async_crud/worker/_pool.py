"""The worker pool: its options, and how it begins and ends."""

from __future__ import annotations

import datetime as dt
import os
import socket
from typing import Annotated, Final

from pydantic import Field, Strict, TypeAdapter
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from uuid_utils import uuid7

from zotify_async_crud import _validation as check
from zotify_async_crud._backoff import Backoff, ExponentialBackoff
from zotify_async_crud.errors import InvalidValue, PoolRunning
from zotify_async_crud.worker._feeder import Feeder
from zotify_async_crud.worker._hooks import Counts, WorkerHooks
from zotify_async_crud.worker._jobs import Handler
from zotify_async_crud.worker._link import Link
from zotify_async_crud.worker._shift import Shift
from zotify_async_crud.worker._slots import Slots

CONCURRENCY_MAX: Final = 1_000
"""The most jobs that a pool runs at once."""

_RELAXED: Final = 30
"""Poll intervals between two polls where something cheaper looks in between."""

_CONCURRENCY: Final = TypeAdapter(Annotated[int, Strict(), Field(ge=1, le=CONCURRENCY_MAX)])


class WorkerPool:
    """Works off the queue: up to *concurrency* jobs at once, each by a call of *handler*.

    A claimed job is this pool's for *lease*, which it renews as long as the handler runs; what a
    handler reports or returns after its lease was lost is refused. Any number of pools, in any
    number of processes, share one queue. Delivery is at least once: a job whose worker was killed
    runs again.

    Durations are timedeltas, or seconds. The pool looks for jobs when it is told of some, when one
    becomes due, and every *poll_interval*. Without *listen* it is told of commits in its own
    process only, as behind a pooler in transaction mode, which cannot pass on LISTEN. *backoff*
    returns for the number of a failed attempt the seconds until the next. After ``stop``, handlers
    have *shutdown_timeout* to end before they are cancelled. *worker_id* must be this pool's alone.

    Raises:
        InvalidValue: An option is out of range; it is named.
    """

    def __init__(  # noqa: PLR0913 - options, all with a default
        self,
        session_factory: async_sessionmaker[AsyncSession],
        handler: Handler,
        *,
        concurrency: int = 10,
        worker_id: str | None = None,
        lease: dt.timedelta | float = 60.0,
        poll_interval: dt.timedelta | float = 1.0,
        listen: bool = True,
        backoff: Backoff | None = None,
        shutdown_timeout: dt.timedelta | float = 30.0,
        hooks: WorkerHooks | None = None,
    ) -> None:
        if not callable(handler):
            raise InvalidValue("handler", "Input should be a coroutine function")
        self._sessions, self._handler = session_factory, handler
        self._listen, self._hooks = listen, hooks
        self.worker_id = check.validated("worker_id", check.WORKER_ID, worker_id or _unique_id())
        self._size = check.validated("concurrency", _CONCURRENCY, concurrency)
        self._lease = check.validated("lease", check.LEASE, lease)
        self._poll_interval = _seconds("poll_interval", check.LEASE, poll_interval)
        self._shutdown = _seconds("shutdown_timeout", check.DURATION, shutdown_timeout)
        self._backoff = backoff or ExponentialBackoff()
        self._shift: Shift | None = None

    async def run(self, *, until_idle: bool = False) -> Counts:
        """Work until ``stop`` is called or this is cancelled; return what was done.

        With *until_idle*, work until no job is due and none of this pool's is running; jobs that
        become due later are not waited for. Cancelled, it cancels the handlers, gives back their
        jobs, and writes what is over, for some seconds at most, before the cancellation goes on.

        Raises:
            PoolRunning: This pool runs already.
            ZotifyCrudError: The database cannot be used, and another attempt would not help. Once
                it could be, the pool outlives whatever goes wrong: it logs and tries again.
        """
        if self._shift is not None:
            raise PoolRunning
        link = Link(self._sessions, self.worker_id, self._lease)
        slots = Slots(self._handler, self._size, self._backoff, self._hooks)
        relaxed = self._listen and link.looks_by_itself
        interval = self._poll_interval * (_RELAXED if relaxed else 1)
        feeder = Feeder(link, slots, self._size, interval, until_idle=until_idle)
        self._shift = Shift(link, slots, feeder)
        try:
            await self._shift.work(
                self._lease.total_seconds(), self._poll_interval if self._listen else None
            )
        finally:
            self._shift = None
        return slots.counts

    async def stop(self) -> None:
        """Claim nothing more, let the handlers end, and wait until all is written.

        After *shutdown_timeout* the handlers are cancelled and their jobs given back. A second call
        does so at once. On a pool that does not run, nothing happens. A handler that awaits this
        waits for itself.
        """
        if self._shift is not None:
            await self._shift.stop(self._shutdown)


def _seconds(field: str, adapter: TypeAdapter[dt.timedelta], value: object) -> float:
    return check.validated(field, adapter, value).total_seconds()


def _unique_id() -> str:
    return f"{socket.gethostname()[:100]}-{os.getpid()}-{uuid7().hex[-12:]}"
