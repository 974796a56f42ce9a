"""How the schema is changed on PostgreSQL, while others read and write."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from sqlalchemy import Connection, Index, event, inspect
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.schema import CreateIndex, CreateSchema

from zotify_async_crud._dialects.connections import dedicated
from zotify_async_crud._dialects.seam import DEADLINE, SCHEMA

_LOCK: Final = 0x7A6F_7469_6679  # "zotify"; any number that no other software picks by chance
_PAUSE: Final = 0.1

LOCK_TIMEOUT: Final = 500
"""Milliseconds that a change waits for a table. All who come later wait behind it as long."""

_DAY: Final = 86_400.0

# By the names that this server knows: transaction_timeout came with PostgreSQL 17.
_LEAVE_OPEN: Final = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""
_TAKE_TIME: Final = """
    SELECT set_config(name, CASE name WHEN 'lock_timeout' THEN '{lock_timeout}' ELSE '0' END, false)
    FROM pg_settings WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout')
"""
_HURRY_AGAIN: Final = """
    SELECT set_config(name, reset_val, false)
    FROM pg_settings WHERE name IN ('lock_timeout', 'statement_timeout', 'transaction_timeout')
"""


@contextlib.asynccontextmanager
async def changing_schema(engine: AsyncEngine, *, in_steps: bool) -> AsyncIterator[AsyncConnection]:
    """Yield a connection as ``Database.changing_schema`` describes it."""
    async with _alone(engine), engine.connect() as unprepared:
        # also where the engine commits each statement, or its transactions are serializable
        connection = await unprepared.execution_options(isolation_level="READ COMMITTED")
        event.listen(connection.sync_connection, "begin", _hurry)
        schema = engine.get_execution_options().get(SCHEMA)
        if in_steps:
            async with connection.begin():
                await _create_schema(connection, schema)
            yield connection
        else:
            async with connection.begin():
                await _create_schema(connection, schema)
                yield connection


@contextlib.asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[None]:
    """Let one caller at a time change the schema.

    The lock is one of a transaction on a connection of its own: it holds behind a pooler, too, and
    while the changes are several transactions. Nobody waits for it inside of a statement, since
    CREATE INDEX CONCURRENTLY would wait for the snapshot that such a statement has. Nor does
    anybody give up: who has it works, which may take its time, or gives up in time.
    """
    async with dedicated(engine) as driver:
        while True:
            async with driver.transaction():
                if await driver.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                    await driver.execute(_LEAVE_OPEN)
                    yield
                    return
            await asyncio.sleep(_PAUSE * random.uniform(0.5, 1.5))


def _hurry(connection: Connection) -> None:
    if connection.get_execution_options()["isolation_level"] != "AUTOCOMMIT":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT}")


async def _create_schema(connection: AsyncConnection, schema: str | None) -> None:
    """Create *schema* if it is missing; to create one that exists takes a permission, too."""
    if schema is None:
        return
    if not await connection.run_sync(lambda sync: inspect(sync).has_schema(schema)):
        await connection.execute(CreateSchema(schema))


def build_index(connection: Connection, index: Index) -> None:
    """Build *index* while others write; one that was broken off before is built anew.

    Outside of a transaction, and for as long as it takes: the times that the engine and the server
    give a statement or a transaction are not meant for this
    (https://www.postgresql.org/docs/current/sql-createindex.html). What it waits for
    is each transaction that began before, one after the other.
    """
    drop_index(connection, str(index.name))
    index.dialect_options["postgresql"]["concurrently"] = True
    _execute_unhurried(connection, str(CreateIndex(index).compile(dialect=connection.dialect)))


def drop_index(connection: Connection, name: str) -> None:
    """Drop the index while others write, if there is one."""
    quoted = connection.dialect.identifier_preparer.quote_identifier(name)
    _execute_unhurried(connection, f"DROP INDEX CONCURRENTLY IF EXISTS {quoted}")


def _execute_unhurried(connection: Connection, statement: str) -> None:
    left = connection.get_execution_options()[DEADLINE] - time.monotonic()
    lock_timeout = max(LOCK_TIMEOUT, int(left * 1000))
    adapted: Any = connection.connection.dbapi_connection
    adapted.run_async(lambda driver: _unhurried(driver, statement, lock_timeout))


async def _unhurried(driver: Any, statement: str, lock_timeout: int) -> None:
    await driver.execute(_TAKE_TIME.format(lock_timeout=lock_timeout))
    try:
        await driver.execute(statement, timeout=_DAY)
    finally:
        await driver.execute(_HURRY_AGAIN)
