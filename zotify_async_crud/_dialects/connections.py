"""Connections that stay open outside of a pool."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine


@contextlib.asynccontextmanager
async def dedicated(engine: AsyncEngine) -> AsyncIterator[Any]:
    """Yield a driver's connection, set up as *engine* does it, that takes no place in its pool."""
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver = raw.driver_connection
        await connection.run_sync(lambda sync_connection: sync_connection.detach())
        yield driver
