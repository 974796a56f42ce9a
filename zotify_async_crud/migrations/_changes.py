"""How a schema is changed: alone, with patience, and by Alembic."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from alembic import command
from sqlalchemy import Connection
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from zotify_async_crud._backoff import ExponentialBackoff
from zotify_async_crud._dialects import DEADLINE, database_for
from zotify_async_crud.database import translated_errors
from zotify_async_crud.errors import DatabaseUnavailable, TransactionConflict
from zotify_async_crud.migrations import _revisions as revisions
from zotify_async_crud.migrations._checks import check_known, check_unversioned
from zotify_async_crud.migrations._tables import tables_in

PATIENCE: Final = 120.0
"""Seconds for which others may keep a change waiting before it is given up."""

_BACKOFF: Final = ExponentialBackoff(first=0.1, longest=5.0)

_ALEMBIC: Final = threading.Lock()
"""What Alembic gives to revisions is global: one task of a process can use it at a time."""

_PAUSE: Final = 0.01


async def upgrade(engine: AsyncEngine, revision: str = "head") -> None:
    """Create the tables, or bring those of an older version to *revision*, with all that is there.

    Tables that ``models.Base.metadata`` made get their revision. It needs the right to create
    tables, and on PostgreSQL a connection more than the one of the engine's pool.

    Raises:
        InvalidValue: There is no such *revision*.
        SchemaMismatch: The tables are of a newer version, or are not ours.
        TransactionConflict: Others held a table for two minutes, or left a transaction open that an
            index has to wait for; run it again when they have ended.
    """
    revisions.check_revision(revision, "head")
    target = revisions.newest_revision() if revision == "head" else revision
    await _changed(engine, lambda connection: _upgrade(connection, target))


async def downgrade(engine: AsyncEngine, revision: str) -> None:
    """Take the schema back to *revision*; what only newer ones have room for is lost.

    ``base`` is before the first: it drops all tables and what is in them. The errors are those of
    ``upgrade``.
    """
    revisions.check_revision(revision, "base")
    await _changed(engine, lambda connection: _downgrade(connection, revision))


async def _changed(engine: AsyncEngine, change: Callable[[Connection], None]) -> None:
    database = database_for(engine.dialect)
    deadline, attempt = time.monotonic() + PATIENCE, 0
    engine = engine.execution_options(**{DEADLINE: deadline})
    while True:
        attempt += 1
        try:
            # to do it again is safe, whatever its outcome was
            with translated_errors(lost=DatabaseUnavailable):
                async with (
                    database.changing_schema(engine, in_steps=True) as connection,
                    _with_alembic(),
                ):
                    return await _run(connection, change)
        except TransactionConflict:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_BACKOFF(attempt))


async def _run(connection: AsyncConnection, change: Callable[[Connection], None]) -> None:
    try:
        await connection.run_sync(change)
    except PendingRollbackError as error:
        # Alembic cleans up on a connection that the first error took away, a cancellation perhaps
        raise error.__context__ or error from None


@contextlib.asynccontextmanager
async def _with_alembic() -> AsyncIterator[None]:
    """Wait for the other tasks and threads that use Alembic, and keep this loop running."""
    while not _ALEMBIC.acquire(blocking=False):  # noqa: ASYNC110 - threads have it, too
        await asyncio.sleep(_PAUSE)
    try:
        yield
    finally:
        _ALEMBIC.release()


def _upgrade(connection: Connection, revision: str) -> None:
    if _is_before(_found(connection), revision):
        revisions.move(connection, command.upgrade, revision)


def _downgrade(connection: Connection, revision: str) -> None:
    if _is_before(revision, _found(connection)):
        revisions.move(connection, command.downgrade, revision)
    if revision == "base":
        with _transaction(connection):
            revisions.forget(connection)


def _found(connection: Connection) -> str:
    """Return the revision of the tables, or ``base``; write it where it is missing."""
    with _transaction(connection):
        revision = revisions.revision_of(connection)
        check_known(revision)
        if revision is None and tables_in(connection):
            check_unversioned(connection)
            revision = revisions.newest_revision()
            revisions.stamp(connection, revision)
        return revision or "base"


def _transaction(connection: Connection) -> contextlib.AbstractContextManager[object]:
    """Begin a transaction, unless all of the change is one."""
    return contextlib.nullcontext() if connection.in_transaction() else connection.begin()


def _is_before(one: str, other: str) -> bool:
    order = ["base", *revisions.all_revisions()]
    return order.index(one) < order.index(other)
