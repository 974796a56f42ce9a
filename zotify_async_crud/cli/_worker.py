"""One pool of the command ``work``: in its own process, or in one that it starts."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from zotify_async_crud import _processes, database
from zotify_async_crud._processes import Stop
from zotify_async_crud._transactions import Sessions
from zotify_async_crud.cli._database import opened
from zotify_async_crud.cli._handlers import import_handler
from zotify_async_crud.cli._options import Target
from zotify_async_crud.errors import ZotifyCrudError
from zotify_async_crud.worker import Counts, WorkerPool

LOG: Final = logging.getLogger("zotify_async_crud.work")
OUTPUT, ERRORS = 1, 2


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is to do; it goes to another process as JSON."""

    handler: str
    target: Target = field(repr=False)
    concurrency: int
    lease: float
    shutdown_timeout: float
    until_idle: bool

    @classmethod
    def read(cls) -> Order:
        """Return what the process that has started this one has said."""
        found = _processes.what_to_do()
        return cls(**{**found, "target": Target(**found["target"])})

    def pool(self, sessions: Sessions) -> WorkerPool:
        """Return the pool, which does not run yet.

        Raises:
            InvalidValue: The handler or an option is none.
        """
        return WorkerPool(
            sessions,
            import_handler(self.handler),
            concurrency=self.concurrency,
            lease=self.lease,
            shutdown_timeout=self.shutdown_timeout,
            listen=not self.target.pgbouncer,  # which passes no notification on
        )


async def work(
    order: Order, sessions: Sessions, obeying: Callable[[Stop], AbstractContextManager[None]]
) -> Counts:
    """Run a pool until it is asked to stop, or has nothing to do; return what it has done."""
    pool = order.pool(sessions)
    with obeying(pool.stop):
        return await pool.run(until_idle=order.until_idle)


class _Formatter(logging.Formatter):
    """Shows a traceback only where the message does not say it all."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and isinstance(record.exc_info[1], ZotifyCrudError):
            record = copy.copy(record)  # other handlers may show more
            record.exc_info = record.exc_text = None
        return super().format(record)


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Write what is logged to stderr while the block runs."""
    root, handler = logging.getLogger(), logging.StreamHandler()
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(process)d %(message)s"))
    # it logs with a traceback what the errors that follow from it tell in a line
    handler.addFilter(lambda record: not record.name.startswith("sqlalchemy.pool"))
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)


def main() -> None:
    """Work as the process says that has started this one, and tell it in the end what was done."""
    # service managers send it to all processes; the one that started this says when it is to stop
    signal.signal(signal.SIGTERM, lambda *_: None)
    # what a handler prints is no report, and shows at once; what it starts must not hold the pipe
    report = os.dup(OUTPUT)
    os.dup2(ERRORS, OUTPUT)
    order = Order.read()
    with contextlib.redirect_stdout(sys.stderr), logging_to_stderr():
        try:
            counts = asyncio.run(_work(order))
        except ZotifyCrudError as error:
            LOG.error("%s", error)  # noqa: TRY400 - it says all
            sys.exit(1)
    with contextlib.suppress(BrokenPipeError):  # nobody is left to be told
        os.write(report, json.dumps(dataclasses.asdict(counts)).encode())


async def _work(order: Order) -> Counts:
    async with opened(order.target) as engine:
        sessions = database.create_session_factory(engine)
        return await work(order, sessions, _obeying_input)


def _obeying_input(stop: Stop) -> AbstractContextManager[None]:
    async def end() -> None:
        LOG.info("ending")
        await stop()

    return _processes.obeying_input(end)
