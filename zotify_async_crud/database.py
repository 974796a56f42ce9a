"""Engines and sessions, set up the one way we support."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import exc as sa_exc
from sqlalchemy import make_url
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from zotify_async_crud._dialects import database_for_url, had_connected, translate
from zotify_async_crud.encryption import TokenKeyring, use_keyring
from zotify_async_crud.errors import (
    DatabaseError,
    DatabaseUnavailable,
    InvalidValue,
    OutcomeUnknown,
    ZotifyCrudError,
)


def create_engine(
    url: str | URL,
    *,
    token_keyring: TokenKeyring | None = None,
    schema: str | None = None,
    read_only: bool = False,
    pgbouncer: bool = False,
    **options: Any,
) -> AsyncEngine:
    """Return an engine for ``postgresql+asyncpg://…`` or ``sqlite+aiosqlite:///…``.

    *options* go to SQLAlchemy's ``create_async_engine`` and win over what is set here, and so do
    those of the driver in the query of *url*, such as ``?timeout=5``:

    - PostgreSQL: 10 s to connect, 60 s for a statement, a check of each pooled connection before
      use (``pool_pre_ping``), UTC. The tables are in *schema*, which ``migrations.upgrade``
      creates, or else in the first of the role's ``search_path``. *pgbouncer* is for a pooler in
      transaction mode: nothing that is prepared on one server process is used on another.
    - SQLite: write-ahead log, foreign keys, and a new file is its owner's only (mode 0600). A file
      of somebody else gets the log with this library's tables. There is one writer at a time, so
      transactions take the write lock when they begin: those of one engine in turn, on one
      connection, and those of other processes within 30 s.

    An engine that is *read_only* is for transactions that only read, and refuses all others with
    ``AccessRefused``. On SQLite they wait for no writer, and keep none waiting.

    The Spotify token is encrypted by *token_keyring*; without one it is kept in clear. See
    ``encryption.use_keyring`` for an engine of your own.

    Raises:
        UnsupportedDatabase: The URL names another database or driver.
        InvalidValue: *url* is no URL, or has an option or a value that the driver does not know,
            or *schema* is no schema's name.
    """
    try:
        database, full_url = database_for_url(make_url(url))
        engine = database.create_engine(
            full_url, schema=schema, read_only=read_only, pgbouncer=pgbouncer, options=options
        )
        use_keyring(engine, token_keyring)
        return engine  # noqa: TRY300 - all of it may raise
    except InvalidValue:
        raise
    except (sa_exc.ArgumentError, ValueError):
        pass
    # outside the except block, so that no __context__ carries the password along
    raise InvalidValue("url", "Input should be a database URL, such as sqlite:///zotify.db")


def create_session_factory(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Return a factory whose sessions keep what they loaded readable after a commit."""
    return async_sessionmaker(engine, expire_on_commit=False)


@contextmanager
def translated_errors(*, lost: type[DatabaseError] = OutcomeUnknown) -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise in the block into this library's errors.

    The coroutines do so for their own statements. This is for what they do not see, the caller's
    COMMIT above all: a connection that is lost there becomes *lost*, which can be
    ``DatabaseUnavailable`` where the block may be run again whatever its outcome was.
    """
    try:
        yield
    except ZotifyCrudError:
        raise
    except Exception as error:
        failure = translate(error)
        if failure is None:
            raise
        if isinstance(failure, DatabaseUnavailable) and had_connected(error):
            failure = lost(failure.detail, failure.code)
        raise failure from error
