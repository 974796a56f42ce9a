"""How the schema is changed on SQLite: in one transaction, with foreign keys switched off."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from zotify_async_crud._dialects.sqlite_engine import WRITE_AHEAD, switch
from zotify_async_crud._tasks import begin, ended
from zotify_async_crud.errors import ConstraintViolated

_VIOLATIONS: Final = text(
    'SELECT "table", parent, count(*) FROM pragma_foreign_key_check GROUP BY "table", parent'
)


@contextlib.asynccontextmanager
async def changing_schema(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Yield a connection as ``Database.changing_schema`` describes it."""
    async with engine.connect() as connection, _without_foreign_keys(connection):
        async with connection.begin():
            await connection.run_sync(_begin)
            before = await _violations(connection)
            yield connection
            for (table, parent), rows in (await _violations(connection)).items():
                if rows > before.get((table, parent), 0):
                    raise ConstraintViolated(f"rows of {table} refer to none of {parent}")
        if engine.get_execution_options().get(WRITE_AHEAD):
            await _write_ahead(connection)


@contextlib.asynccontextmanager
async def _without_foreign_keys(connection: AsyncConnection) -> AsyncIterator[None]:
    """Let tables be made anew: to drop one would delete all that refers to it.

    It is possible outside of a transaction only (https://www.sqlite.org/lang_altertable.html).
    """
    driver: Any = (await connection.get_raw_connection()).driver_connection
    async with driver.execute("PRAGMA foreign_keys") as cursor:
        (were_on,) = await cursor.fetchone()
    try:
        # in here: a caller that is cancelled now has asked for it nevertheless
        await driver.executescript("PRAGMA foreign_keys = OFF")
        yield
    finally:
        # the connection goes back to its pool, whatever happens to the caller meanwhile
        switching = begin(driver.executescript(f"PRAGMA foreign_keys = {were_on}"))
        await ended(switching)
        if switching.exception():
            await connection.invalidate()


async def _write_ahead(connection: AsyncConnection) -> None:
    """Let the file have the write-ahead log if it is ours now; the changes are kept without it."""
    driver: Any = (await connection.get_raw_connection()).driver_connection
    switching = begin(switch(driver))
    await ended(switching)
    switching.exception()  # of somebody who reads, perhaps: the next to connect asks again


def _begin(connection: Connection) -> None:
    """Begin now, and with the write lock, also where the driver would begin late."""
    adapted: Any = connection.connection.dbapi_connection
    if not adapted.driver_connection.in_transaction:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


async def _violations(connection: AsyncConnection) -> dict[tuple[str, str], int]:
    return {(table, parent): rows for table, parent, rows in await connection.execute(_VIOLATIONS)}
