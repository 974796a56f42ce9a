"""How a command comes to its database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from zotify_async_crud import database, migrations
from zotify_async_crud._dialects import database_for
from zotify_async_crud._transactions import Sessions
from zotify_async_crud.cli._options import Target
from zotify_async_crud.errors import DatabaseUnavailable, SchemaMismatch


@contextlib.asynccontextmanager
async def opened(target: Target, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Yield an engine, whatever is in the database; *options* are ``create_engine``'s."""
    engine = database.create_engine(target.database_url, schema=target.schema, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def existing(target: Target, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on a database that is there, whatever is in it.

    Raises:
        SchemaMismatch: There is no such file.
    """
    async with opened(target, **options) as engine:
        if not database_for(engine.dialect).exists(engine.url):
            raise SchemaMismatch("there is no such file: run `zotify-async-crud migrate`")
        yield engine


@contextlib.asynccontextmanager
async def checked(target: Target, **options: Any) -> AsyncIterator[Sessions]:
    """Yield sessions on a database that is there, with the tables of this version.

    Raises:
        SchemaMismatch: It is not.
    """
    async with existing(target, **options) as engine:
        await migrations.check_schema(engine)
        yield database.create_session_factory(engine)


@contextlib.asynccontextmanager
async def transaction(target: Target, **options: Any) -> AsyncIterator[AsyncSession]:
    """Yield a session in one transaction on such a database."""
    async with checked(target, **options) as sessions:
        with database.translated_errors(lost=DatabaseUnavailable):
            async with sessions.begin() as db:
                yield db


@contextlib.asynccontextmanager
async def prepared(target: Target) -> AsyncIterator[Sessions]:
    """Yield sessions on a database that gets its tables if it is new; an old one is no new one."""
    async with opened(target) as engine:
        if await migrations.current_revision(engine) is None:
            await migrations.upgrade(engine)
        await migrations.check_schema(engine)
        yield database.create_session_factory(engine)
