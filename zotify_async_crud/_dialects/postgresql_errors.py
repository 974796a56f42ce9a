"""What the errors of PostgreSQL, of asyncpg and of the network mean to a caller."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Final

import asyncpg
from sqlalchemy import exc as sa_exc

from zotify_async_crud.errors import (
    AccessRefused,
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    InvalidValue,
    SchemaMismatch,
    TransactionConflict,
    ZotifyCrudError,
)

# https://www.postgresql.org/docs/current/errcodes-appendix.html: a class is a code's first two
# characters; a code named in full goes before its class.
_MEANINGS: Final[dict[str, type[DatabaseError]]] = {
    "40": TransactionConflict,
    "55P03": TransactionConflict,  # lock_not_available
    "08": DatabaseUnavailable,
    "53": DatabaseUnavailable,  # insufficient resources
    "57": DatabaseUnavailable,  # shutdown, cancelled or timed out
    "58": DatabaseUnavailable,  # I/O error
    "25006": AccessRefused,  # read_only_sql_transaction
    "28": AccessRefused,
    "3D": AccessRefused,  # no such database
    "42501": AccessRefused,  # insufficient_privilege
    "3F": SchemaMismatch,
    "42": SchemaMismatch,  # undefined table or column: our own statements have no syntax errors
    "23": ConstraintViolated,
    "42P05": DatabaseError,  # see _HINTS
}
_POOLER: Final = "prepared statements get lost, as behind PgBouncer: create_engine(pgbouncer=True)"
_REFUSED: Final = "its host and port, or PGHOST and PGPORT of the environment, should be valid"
_HINTS: Final = {"26000": _POOLER, "42P05": _POOLER}


def translate(error: BaseException) -> ZotifyCrudError | None:
    """Return what *error* means to a caller, or None if PostgreSQL and asyncpg never raise it."""
    # what the driver raises while connecting does not pass through SQLAlchemy's translation
    cause = error.orig if isinstance(error, sa_exc.DBAPIError) else error
    code = getattr(cause, "sqlstate", None)
    if isinstance(code, str):
        meaning = _MEANINGS.get(code) or _MEANINGS.get(code[:2]) or DatabaseError
        return meaning(_HINTS.get(code) or _message(cause, meaning), code)
    if isinstance(error, sa_exc.DBAPIError) and error.connection_invalidated:
        return DatabaseUnavailable("the connection was lost")
    # the driver lets bare TimeoutErrors and other OSErrors out, and so may the application
    if isinstance(error, OSError) and any(_modules(error, "asyncpg")):
        return DatabaseUnavailable(str(error) or type(error).__name__)
    if _is_out_of_step(error, _origin(cause)):
        return DatabaseUnavailable(str(_origin(cause)))
    return _of_driver(error)


def is_connecting(error: BaseException) -> bool:
    """Tell whether *error* was raised before there was a connection."""
    return any(_modules(error, "asyncpg.connect_utils"))


def _is_out_of_step(error: BaseException, origin: BaseException | None) -> bool:
    """Tell whether the driver no longer knows what the server is at, as where that has ended."""
    return isinstance(origin, asyncpg.InternalClientError) or (
        # while SQLAlchemy sets up a new connection; of a misuse the driver speaks in other words
        isinstance(error, asyncpg.InterfaceError) and "connection is closed" in str(error)
    )


def _modules(error: BaseException, package: str) -> Iterator[str]:
    """Yield the modules of *package* that *error* came through."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "")
        if f"{name}.".startswith(f"{package}."):
            yield name


def _of_driver(error: BaseException) -> ZotifyCrudError | None:
    """Return what the driver says, where that is about how it was set up and not about a row."""
    # SQLAlchemy 2.0 wraps nothing that the driver raises while connecting
    origin = _origin(error.orig) if isinstance(error, sa_exc.DBAPIError) else error
    if isinstance(origin, asyncpg.ClientConfigurationError):
        return InvalidValue("url", str(origin).partition("\n")[0])  # DETAIL and HINT follow
    if isinstance(origin, ValueError) and is_connecting(error):
        return InvalidValue("url", _REFUSED)
    return DatabaseError(type(origin).__name__) if origin is not error else None


def _message(cause: BaseException | None, meaning: type[DatabaseError]) -> str:
    """Return what the server says, where that holds names only and no values of a row."""
    origin = _origin(cause)
    if issubclass(meaning, (AccessRefused, DatabaseUnavailable, SchemaMismatch)):
        return str(origin).partition("\n")[0]  # DETAIL and HINT follow
    return type(origin).__name__


def _origin(cause: BaseException | None) -> BaseException | None:
    """Return the driver's own exception, which SQLAlchemy's adapter has wrapped."""
    return cause.__cause__ if cause is not None and cause.__cause__ is not None else cause
