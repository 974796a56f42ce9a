"""Faults that the tests cause on purpose, and how they look at what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import pytest
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from zotify_async_crud import events

Moment = Literal["while it waits", "when the answer is there"]
"""When a cancellation comes: at once, or between the answer and the task that waits for it."""

MOMENTS: Final[tuple[Moment, ...]] = ("while it waits", "when the answer is there")

only_postgresql: Final = pytest.mark.parametrize("url", ["postgresql"], indirect=True)
only_sqlite: Final = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@dataclass
class Interrupted:
    """How a coroutine ended that was to be cancelled at one of its steps."""

    was_cancelled: bool
    error: BaseException | None
    """Kept, as a logger or a caller keeps it: with it live the frames that it came through."""


class _Steps:
    """Runs a coroutine and cancels its task where it waits for the *step*-th time."""

    def __init__(self, work: Coroutine[Any, Any, None], step: int, moment: Moment) -> None:
        self._work, self._step, self._moment = work, step, moment
        self.reached = False

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        assert task is not None
        steps, step = self._work.__await__(), 0
        answer, error = None, None
        while True:
            try:
                waits_for = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration:
                return
            if step == self._step:
                self.reached = True
                if waits_for is None or self._moment == "while it waits":
                    task.cancel()
                else:  # called before the task itself learns of the answer
                    waits_for.add_done_callback(lambda _: task.cancel())
            step += 1
            answer, error = None, None
            try:
                answer = yield waits_for
            except BaseException as raised:  # noqa: BLE001 - handed on to the coroutine
                error = raised


async def cancelled_at(step: int, moment: Moment, work: Coroutine[Any, Any, None]) -> Interrupted:
    """Run *work* in a task, and cancel it where it waits for the *step*-th time, from 0."""
    steps = _Steps(work, step, moment)

    async def run() -> None:
        await steps

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    try:
        error = task.exception()
    except asyncio.CancelledError as cancellation:
        error = cancellation
    return Interrupted(steps.reached, error)


def file_of(url: str) -> str:
    """Return the path of the SQLite database at *url*."""
    path = make_url(url).database
    assert path is not None
    return path


@contextlib.contextmanager
def writer_of(url: str) -> Iterator[sqlite3.Connection]:
    """Hold the write lock of the SQLite file at *url* while the block runs."""
    with contextlib.closing(
        sqlite3.connect(file_of(url), isolation_level=None, timeout=2)
    ) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        if connection.in_transaction:
            connection.execute("ROLLBACK")


@contextlib.asynccontextmanager
async def apart(url: str) -> AsyncIterator[AsyncConnection]:
    """Yield a connection that commits each statement and has nothing to do with the library."""
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def server_process_of(db: AsyncSession) -> int:
    """Return the number of the PostgreSQL server process that serves *db*."""
    return int((await db.execute(text("SELECT pg_backend_pid()"))).scalar_one())


async def kill(url: str, server_process: int) -> None:
    """End a server process, and return when it has ended."""
    async with apart(url) as admin:
        ended = text("SELECT pg_terminate_backend(:process, 10000)")
        assert (await admin.execute(ended, {"process": server_process})).scalar_one()


async def until_waiting_for_lock(url: str, *, sessions: int = 1) -> None:
    """Return once PostgreSQL says that *sessions* of this database wait for a lock."""
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with apart(url) as admin, asyncio.timeout(30):
        while (await admin.execute(waiting)).scalar_one() < sessions:
            pass


async def until_succeeding(engine: AsyncEngine) -> None:
    """Return once the one who notifies on *engine* knows that it can, later than who hears it."""
    (notifier,) = events._notifiers[events._place(engine.sync_engine)]  # noqa: SLF001
    async with asyncio.timeout(30):
        while not notifier._succeeds:  # noqa: ASYNC110, SLF001 - nothing public tells
            await asyncio.sleep(0.001)


def is_sqlite(engine: AsyncEngine) -> bool:
    """Tell whether *engine* is one of SQLite."""
    return engine.dialect.name == "sqlite"


def begin_deferred(engine: AsyncEngine) -> None:
    """Begin without a lock, as SQLAlchemy's documentation shows it for SQLite."""

    @event.listens_for(engine.sync_engine, "connect")
    def let_sqlalchemy_begin(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")
