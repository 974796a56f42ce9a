"""Connections that are kept from one statement to the next."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from zotify_async_crud._tasks import ended

_SURE: Final = 1.0
"""Seconds since its last use in which a connection is taken to be alive."""


class Lines:
    """Connections beside those of an engine, with sessions that commit each statement.

    To borrow a connection for each statement, to make sure that it is alive, and to begin and
    commit a transaction takes five round trips; the statement takes one. A session that is made and
    closed for each costs as much as SQLAlchemy's part in the statement. What is sent must be about
    tables, and not about entities of the ORM.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._idle: list[_Line] = []
        self.is_connecting = False

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Yield a session on a connection that nobody else uses; an error ends the connection."""
        line = await self._line()
        try:
            yield line.db
            # the session does not know that what it sent is committed
            session = line.db.sync_session
            session.dispatch.after_commit(session)
        except BaseException:
            await line.close()
            raise
        line.used_at = time.monotonic()
        self._idle.append(line)

    async def close(self) -> None:
        """Close what is not in use."""
        while self._idle:
            await self._idle.pop().close()

    async def _line(self) -> _Line:
        while self._idle:
            line = self._idle.pop()
            if await line.is_alive():
                return line
        self.is_connecting = True
        try:
            return await self._connected()
        finally:
            self.is_connecting = False

    async def _connected(self) -> _Line:
        connecting = asyncio.create_task(self._connect())
        try:
            await ended(connecting)
        except asyncio.CancelledError:
            # not before: SQLAlchemy does not close a connection that it is setting up
            with contextlib.suppress(Exception):
                await connecting.result().close()
            raise
        return connecting.result()

    async def _connect(self) -> _Line:
        connection = await self._engine.connect()
        return _Line(connection, await connection.run_sync(_detached))


class _Line:
    def __init__(self, connection: AsyncConnection, driver: Any) -> None:
        self.connection, self._driver = connection, driver
        self.db = _Session(connection, expire_on_commit=False)
        self.used_at = time.monotonic()

    async def is_alive(self) -> bool:
        if time.monotonic() - self.used_at < _SURE:
            return True
        answers = False
        try:
            with contextlib.suppress(Exception):
                await self.connection.run_sync(lambda sync: sync.dialect.do_ping(self._driver))
                answers = True
        finally:
            if not answers:
                await self.close()
        return answers

    async def close(self) -> None:
        """Close the connection, and cancel what the server is still at."""
        # An error has perhaps invalidated the connection. SQLAlchemy forgets one then that is in no
        # pool, and does not close it.
        await self.connection.run_sync(lambda _: self._driver.terminate())
        await self.db.close()
        await self.connection.close()


class _Session(AsyncSession):
    """A session whose statements go past the ORM, since they are about tables and not entities.

    A tenth of what the client does for a statement is the ORM's part.
    """

    async def execute(self, statement: Any, params: Any = None, **_: Any) -> Any:
        """Execute *statement* on the connection."""
        connection: Any = self.bind
        return await connection.execute(statement, params)


def _detached(connection: Connection) -> Any:
    driver = connection.connection.dbapi_connection
    connection.detach()
    return driver
