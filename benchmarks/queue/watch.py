"""Looks at a contestant's table from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from benchmarks.queue.contestants import Contestant
from benchmarks.queue.meter import Meter

_EVERY: Final = 0.01
"""Seconds between two looks."""

_TRANSACTIONS: Final = """
    SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()
"""
OWN_TRANSACTIONS: Final = 2
"""What asking for the transactions twice adds to them."""


@asynccontextmanager
async def watching(url: str, contestant: Contestant) -> AsyncIterator[Watch]:
    """Yield a look at the table, by a connection of its own."""
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with engine.connect() as connection:
        yield Watch(connection, contestant)
    await engine.dispose()


class Watch:
    """Asks how many jobs are finished, and what the server uses."""

    def __init__(self, connection: AsyncConnection, contestant: Contestant) -> None:
        self._connection, self._contestant = connection, contestant
        self._has_server = connection.dialect.name == "postgresql"

    async def settle(self, *, analyze: bool = True) -> None:
        """Do now what the server would do in the background, perhaps in the midst of a round."""
        if self._has_server and analyze:
            await self._connection.execute(text("VACUUM ANALYZE"))

    async def meter(self) -> Meter:
        """Begin to measure."""
        asked = text("SELECT pg_backend_pid()")
        return Meter(await self._connection.scalar(asked) if self._has_server else None)

    async def until_finished(self) -> None:
        """Wait until the table holds every job as finished."""
        while await self.unfinished():  # noqa: ASYNC110 - a table sets no event
            await asyncio.sleep(_EVERY)

    async def unfinished(self) -> int:
        """Return how many jobs the table does not hold as finished."""
        return int(await self._connection.scalar(text(self._contestant.unfinished)))

    async def finished(self) -> int:
        """Return how many jobs the table holds as finished."""
        return int(await self._connection.scalar(text(self._contestant.finished)))

    async def transactions(self) -> int | None:
        """Return the transactions that the server has counted in this database."""
        if not self._has_server:
            return None
        await self._connection.execute(text("SELECT pg_stat_force_next_flush()"))
        return int(await self._connection.scalar(text(_TRANSACTIONS)))
