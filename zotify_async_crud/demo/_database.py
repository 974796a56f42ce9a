"""How the demo reaches its database: to work in it, and to watch."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from zotify_async_crud import database, events, migrations
from zotify_async_crud._transactions import Sessions
from zotify_async_crud.demo import _steps
from zotify_async_crud.encryption import TokenKeyring
from zotify_async_crud.errors import InvalidValue, SchemaMismatch


@dataclass(frozen=True, slots=True)
class Access:
    """Sessions on a database that has the schema."""

    sessions: Sessions

    watching: Sessions
    """For looking often. Where other processes work, it keeps none of them waiting."""

    location: str
    """Where the database is, without what may be a secret."""


@contextlib.asynccontextmanager
async def connected(
    url: str, token_keyring: TokenKeyring, *, shared: bool
) -> AsyncIterator[Access]:
    """Open the database at *url*, make its schema, and tell worker pools elsewhere of new jobs.

    Raises:
        InvalidValue: It is to be *shared* with other processes, and they would not find it.
    """
    async with (
        _engine(url, token_keyring=token_keyring) as engine,
        contextlib.AsyncExitStack() as resources,
    ):
        await migrations.upgrade(engine)
        sessions = watching = database.create_session_factory(engine)
        if shared:
            reading = await resources.enter_async_context(_engine(url, read_only=True))
            watching = database.create_session_factory(reading)
            await _check_shared(watching)
        await resources.enter_async_context(events.notifying(engine))
        yield Access(sessions, watching, _steps.location(engine.url))


@contextlib.asynccontextmanager
async def _engine(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    engine = database.create_engine(url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()


async def _check_shared(elsewhere: Sessions) -> None:
    try:
        await _steps.count_jobs(elsewhere)
    except SchemaMismatch:
        reason = "Input should be 1, since other processes do not see a database in memory"
        raise InvalidValue("processes", reason) from None
