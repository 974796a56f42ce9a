"""How an engine on SQLite is set up: who begins, who waits, and what a cancelled task leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiosqlite
from sqlalchemy import Connection, event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from zotify_async_crud.errors import AccessRefused, InvalidValue

BUSY_TIMEOUT: Final = 30.0
"""Seconds that a transaction waits for the file's only writer before it gives up."""

WRITE_AHEAD: Final = "zotify_async_crud.write_ahead"
"""The execution option of an engine that switches its file to the write-ahead log."""

_RETRY_PAUSE: Final = 0.01

_IS_OURS_OR_NEW: Final = "SELECT count(*) = 0 OR max(name = 'download_queue') FROM sqlite_master"
"""The other tables of ours have names that somebody else's may have."""

# There is one writer at a time. Waiting for it in SQLite's busy handler is a matter of luck and of
# sleeps up to 100 ms; the queue of a pool is fair. In memory, each connection is its own database.
_ONE_CONNECTION: Final[dict[str, Any]] = {
    "poolclass": AsyncAdaptedQueuePool,
    "pool_size": 1,
    "max_overflow": 0,
}
_URL_OPTIONS: Final = {
    "cached_statements",
    "check_same_thread",
    "detect_types",
    "isolation_level",
    "timeout",
}
_IN_MEMORY: Final = {None, "", ":memory:"}


def create_engine(url: URL, options: Mapping[str, Any], *, read_only: bool) -> AsyncEngine:
    """Return an engine as ``database.create_engine`` describes it."""
    connect_args = {
        "timeout": BUSY_TIMEOUT,
        "factory": _Connection,
        **_options_of(url),
        **options.get("connect_args", {}),
    }
    pool = {} if read_only or "poolclass" in options else _ONE_CONNECTION
    engine = create_async_engine(url, **{**pool, **options, "connect_args": connect_args})
    if is_in_memory(url):
        _keep_in_memory(engine)
    elif "uri" not in url.query:
        _create_as_private(engine, url)
    _configure(engine, read_only=read_only)
    engine.update_execution_options(**{WRITE_AHEAD: not read_only})
    autocommit = options.get("isolation_level") == "AUTOCOMMIT"
    _begin(engine, "BEGIN" if read_only else "BEGIN IMMEDIATE", autocommit=autocommit)
    return engine


def _options_of(url: URL) -> Mapping[str, Any]:
    """Return the driver's options that *url* holds; with ``uri``, the others are SQLite's."""
    if "uri" not in url.query:
        for option in sorted(url.query.keys() - _URL_OPTIONS):
            raise InvalidValue("url", f"{option} is no option of sqlite3.connect")
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        _, options = url.get_dialect()().create_connect_args(url)
        sqlite3.connect(":memory:", **options).close()
        return options
    # outside the block, so that no __context__ shows the URL
    raise InvalidValue("url", f"sqlite3.connect takes no such {', '.join(sorted(url.query))}")


def is_in_memory(url: URL) -> bool:
    """Tell whether the database is gone with its connection, and so can have no other process."""
    return url.database in _IN_MEMORY


class _Connection(sqlite3.Connection):
    """A connection that ends its transaction when it is closed.

    SQLite keeps a closed connection and its locks until the last statement with unread rows is
    gone, and a task that is cancelled keeps such a statement in its traceback
    (https://www.sqlite.org/c3ref/close.html).
    """

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # closing goes on, whatever SQLite says
            self.rollback()
        super().close()

    def __del__(self) -> None:
        # a task that was cancelled while it connected leaves one behind that nobody has
        with contextlib.suppress(sqlite3.Error):
            self.close()


def _create_as_private(engine: AsyncEngine, url: URL) -> None:
    """Create the file for its owner only; SQLite gives the same mode to its companion files."""

    @event.listens_for(engine.sync_engine, "do_connect")
    def create(*_: object) -> None:
        path = Path(str(url.database))
        try:
            if path.is_fifo():  # which would be waited for
                raise AccessRefused(f"Is a pipe: {path}")
            os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o600))
        except OSError as error:
            raise AccessRefused(f"{error.strerror}: {path}") from error


def _keep_in_memory(engine: AsyncEngine) -> None:
    """Let an in-memory database live until its engine is disposed of.

    It would end with its one connection, which SQLAlchemy closes when a task is cancelled on it.
    """
    name = f"file:zotify-{uuid.uuid4()}?mode=memory&cache=shared"
    keepers: list[sqlite3.Connection] = []

    @event.listens_for(engine.sync_engine, "do_connect")
    def connect_by_name(_: object, __: object, args: list[Any], parameters: dict[str, Any]) -> None:
        args[0] = name
        parameters["uri"] = True
        if not keepers:
            keepers.append(sqlite3.connect(name, uri=True, check_same_thread=False))

    @event.listens_for(engine.sync_engine, "engine_disposed")
    def let_go(_: object) -> None:
        while keepers:
            keepers.pop().close()


def _configure(engine: AsyncEngine, *, read_only: bool) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _: object) -> None:
        if not read_only:
            connection.run_async(_write_ahead)
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()


async def _write_ahead(connection: aiosqlite.Connection) -> None:
    """Switch to the write-ahead log.

    A new file is switched under an exclusive lock, for which SQLite does not wait: of several
    processes that open it at the same moment, some are refused and have to ask again.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            await switch(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            await asyncio.sleep(_RETRY_PAUSE)
        else:
            return


async def switch(connection: aiosqlite.Connection) -> None:
    """Switch to the write-ahead log, unless the file is somebody else's: it would keep that."""
    async with connection.execute(_IS_OURS_OR_NEW) as cursor:
        [(is_ours_or_new,)] = await cursor.fetchall()
    if is_ours_or_new:
        await connection.execute("PRAGMA journal_mode = WAL")


def _begin(engine: AsyncEngine, begin: str, *, autocommit: bool) -> None:
    """Let SQLAlchemy begin transactions by *begin*, and the driver begin none by itself.

    Source: "Enabling Non-Legacy SQLite Transactional Modes" in SQLAlchemy's documentation, and
    https://www.sqlite.org/lang_transaction.html.
    """

    @event.listens_for(engine.sync_engine, "checkout")
    def begin_nothing(connection: Any, *_: object) -> None:
        if connection.isolation_level is not None:  # new, or set back after another isolation level
            connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        level = connection.get_execution_options().get("isolation_level")
        if level != "AUTOCOMMIT" and not (autocommit and level is None):
            connection.exec_driver_sql(begin)
