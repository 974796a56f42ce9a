"""How the coroutines use the caller's session: which database it is, and what its errors mean."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection, CursorResult, Dialect, Result
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Database, database_for, translate
from zotify_async_crud.errors import InvalidValue, LoginRequired
from zotify_async_crud.models import DownloadJob

T = TypeVar("T")

_AT_ONCE: Final = 1_000
"""Rows of a stream that are in memory at a time."""

# A row that the session has seen before must show what this statement read or wrote.
_FRESH: Final = {"populate_existing": True}

# A session may have an engine for each base class; a statement about a table alone tells of none.
_OURS: Final[dict[str, Any]] = {"mapper": DownloadJob}


def database_of(db: AsyncSession) -> Database:
    """Return what differs on the database that *db*, which it makes sure is a session, talks to."""
    return database_for(dialect_of(db))


def dialect_of(db: AsyncSession) -> Dialect:
    """Return the dialect of the engine on which *db* has the library's tables."""
    if not isinstance(db, AsyncSession | async_scoped_session):
        raise InvalidValue("db", "Input should be an AsyncSession")
    return db.get_bind(**_OURS).dialect


async def execute(
    db: AsyncSession,
    statement: Executable,
    parameters: dict[str, Any] | None = None,
    *,
    secret: bool = False,
) -> Result[Any]:
    """Execute *statement*; with *secret*, its values do not show in the chain of an error."""
    database_of(db)
    # or what the caller has changed would be read over: before a statement about a table, and not
    # about entities, SQLAlchemy 2.0 does not flush
    if db.new or db.dirty or db.deleted:
        await _translated(db.flush(), secret=secret)
    running = db.execute(
        statement, parameters, execution_options=_FRESH, bind_arguments=dict(_OURS)
    )
    return await _translated(running, secret=secret)


async def secret_row(db: AsyncSession, statement: Executable) -> Sequence[Any] | None:
    """Execute a statement about the token and return its row; no error shows what is stored."""
    try:
        return (await execute(db, statement, secret=True)).one_or_none()
    except LoginRequired as error:
        failure = LoginRequired(error.reason)
    # without the frames that have read it, in which a traceback with locals would show it
    raise failure


async def changed(
    db: AsyncSession, statement: Executable, parameters: dict[str, Any] | None = None
) -> int:
    """Execute *statement* and return how many rows it wrote."""
    result = cast("CursorResult[Any]", await execute(db, statement, parameters))
    return result.rowcount


async def stream(db: AsyncSession, statement: Executable) -> AsyncIterator[Any]:
    """Yield the first column of what *statement* finds, a part at a time."""
    options = {**_FRESH, "yield_per": _AT_ONCE}
    running = db.stream_scalars(statement, execution_options=options, bind_arguments=dict(_OURS))
    result = await _translated(running)
    try:
        while rows := await _translated(result.fetchmany(_AT_ONCE)):
            for row in rows:
                yield row
    finally:
        await result.close()


async def begin_unit(db: AsyncSession) -> None:
    """Make sure that the statements to come are committed or rolled back as one."""
    await on_connection(db, database_of(db).guard_transaction)


async def on_connection(db: AsyncSession, action: Callable[[Connection], None]) -> None:
    """Call *action* with the connection of the caller's transaction."""
    connection = await _translated(db.connection(bind_arguments=dict(_OURS)))
    await _translated(connection.run_sync(action))


async def _translated(running: Awaitable[T], *, secret: bool = False) -> T:
    try:
        return await running
    except asyncio.CancelledError as cancellation:
        # Its frames hold a cursor with unread rows, and that holds a lock of SQLite's.
        traceback.clear_frames(cancellation.__traceback__)
        raise
    except Exception as error:
        failure = translate(error)
        if failure is None:
            raise
        if not secret:
            failure.__cause__ = error
    # outside the except block, so that a secret's driver error is not its __context__ either
    raise failure
