"""Databases with nothing in them."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool


@contextlib.asynccontextmanager
async def new_database(name: str, folder: Path, server: str) -> AsyncIterator[str]:
    """Yield the URL of a database with nothing in it."""
    if name == "sqlite":
        yield f"sqlite+aiosqlite:///{folder / uuid.uuid4().hex}.db"
        return
    new = f"zotify_new_{uuid.uuid4().hex[:12]}"
    admin = create_async_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with admin.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {new} STRATEGY wal_log"))
    yield make_url(server).set(database=new).render_as_string(hide_password=False)
    async with admin.connect() as connection:
        await connection.execute(text(f"DROP DATABASE {new} WITH (FORCE)"))
