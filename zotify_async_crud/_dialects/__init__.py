"""The only package that knows a database's name: one module for each, behind one seam."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Dialect
from sqlalchemy import exc as sa_exc
from sqlalchemy.engine import URL

from zotify_async_crud._dialects.postgresql import POSTGRESQL
from zotify_async_crud._dialects.postgresql_errors import is_connecting
from zotify_async_crud._dialects.seam import (
    DEADLINE,
    MOST_AT_ONCE,
    Columns,
    Database,
    Listed,
    Queue,
    Types,
)
from zotify_async_crud._dialects.sqlite import SQLITE
from zotify_async_crud.errors import DatabaseUnavailable, UnsupportedDatabase, ZotifyCrudError

__all__ = [
    "DEADLINE",
    "MOST_AT_ONCE",
    "Columns",
    "Database",
    "Listed",
    "Queue",
    "Types",
    "database_for",
    "database_for_url",
    "had_connected",
    "translate",
]

_TESTED: Final[dict[str, Database]] = {
    "postgresql+asyncpg": POSTGRESQL,
    "sqlite+aiosqlite": SQLITE,
}
_DEFAULT_DRIVERS: Final = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
}


def database_for(dialect: Dialect) -> Database:
    """Return what differs on the database that SQLAlchemy calls *dialect*."""
    return _tested(f"{dialect.name}+{dialect.driver}")


def database_for_url(url: URL) -> tuple[Database, URL]:
    """Return the database that *url* points to, and *url* with the driver we support filled in."""
    drivername = _DEFAULT_DRIVERS.get(url.drivername, url.drivername)
    return _tested(drivername), url.set(drivername=drivername)


def translate(error: BaseException) -> ZotifyCrudError | None:
    """Return what *error* means to a caller, or None if it comes from no database or driver."""
    if isinstance(error, sa_exc.TimeoutError):
        return DatabaseUnavailable("no connection of the pool came free in time")
    return SQLITE.translate(error) or POSTGRESQL.translate(error)


def had_connected(error: BaseException) -> bool:
    """Tell whether *error* may have come after statements had been sent."""
    return not isinstance(error, sa_exc.TimeoutError) and not is_connecting(error)


def _tested(name: str) -> Database:
    if name not in _TESTED:  # never guess how another database locks
        raise UnsupportedDatabase(name)
    return _TESTED[name]
