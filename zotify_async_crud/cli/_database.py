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
from zotify_async_crud.errors import DatabaseUnavailable, OutcomeUnknown, SchemaMismatch
from zotify_async_crud.migrations._tables import tables_in


@contextlib.asynccontextmanager
async def opened(target: Target, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Yield an engine, whatever is in the database; *options* are ``create_engine``'s."""
    engine = database.create_engine(
        target.database_url, schema=target.schema, pgbouncer=target.pgbouncer, **options
    )
    try:
        yield engine
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def existing(target: Target, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on a database that is there, as ``check_exists`` has it."""
    async with opened(target, **options) as engine:
        check_exists(engine)
        yield engine


@contextlib.asynccontextmanager
async def checked(target: Target, **options: Any) -> AsyncIterator[Sessions]:
    """Yield sessions on a database with the tables of this version.

    Raises:
        SchemaMismatch: It has not.
    """
    async with existing(target, **options) as engine:
        await migrations.check_schema(engine)
        yield database.create_session_factory(engine)


@contextlib.asynccontextmanager
async def reading(target: Target, **options: Any) -> AsyncIterator[AsyncSession]:
    """Yield a session in one transaction that only reads, on such a database."""
    async with checked(target, read_only=True, **options) as sessions:
        with database.translated_errors(lost=DatabaseUnavailable):
            async with sessions.begin() as db:
                yield db


@contextlib.asynccontextmanager
async def writing(target: Target, **options: Any) -> AsyncIterator[AsyncSession]:
    """Yield a session in one transaction that is committed in the end, on such a database."""
    async with checked(target, **options) as sessions:
        with database.translated_errors(lost=OutcomeUnknown):
            async with sessions.begin() as db:
                yield db


@contextlib.asynccontextmanager
async def prepared(target: Target) -> AsyncIterator[Sessions]:
    """Yield sessions on a database that gets its tables if it is new; an old one is no new one."""
    await is_made(target)
    async with opened(target) as engine:
        await migrations.upgrade(engine)
        yield database.create_session_factory(engine)


@contextlib.asynccontextmanager
async def rehearsing(target: Target) -> AsyncIterator[Sessions]:
    """Yield sessions on what *target* has, or, if it is new, on tables that nobody else sees."""
    sessions_on = checked(target) if await is_made(target) else prepared(Target("sqlite://"))
    async with sessions_on as sessions:
        yield sessions


def check_exists(engine: AsyncEngine) -> None:
    """Make sure that there is a database, so that connecting makes no file.

    Raises:
        SchemaMismatch: There is none.
    """
    if not exists(engine):
        raise SchemaMismatch("there is no such file: run `zotify-async-crud migrate`")


async def is_made(target: Target) -> bool:
    """Tell whether there are tables yet; it only looks.

    Raises:
        SchemaMismatch: There are, and they are not those of this version.
    """
    async with opened(target, read_only=True) as engine:
        if await revision_in(engine) is None:
            return False
        await migrations.check_schema(engine)
        return True


async def revision_in(engine: AsyncEngine) -> str | None:
    """Return the revision of the tables, also where it is not written, or None if there are none.

    Raises:
        SchemaMismatch: It is not written, and they are not those of this version.
    """
    if not exists(engine):
        return None
    with database.translated_errors(lost=DatabaseUnavailable):
        async with engine.connect() as connection:
            has_tables = bool(await connection.run_sync(tables_in))
    revision = await migrations.current_revision(engine)
    if revision is not None or not has_tables:
        return revision
    await migrations.check_schema(engine)
    return migrations.newest_revision()


def exists(engine: AsyncEngine) -> bool:
    """Tell whether connecting finds a database, and does not make one."""
    return database_for(engine.dialect).exists(engine.url)
