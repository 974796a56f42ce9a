"""How an engine on PostgreSQL is set up: its timeouts, its settings, and what a URL may hold."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from inspect import signature
from typing import Any, Final

import asyncpg
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from zotify_async_crud._dialects.seam import SCHEMA
from zotify_async_crud.errors import InvalidValue

CONNECT_TIMEOUT: Final = 10.0
"""Seconds until an attempt to connect is given up."""

COMMAND_TIMEOUT: Final = 60.0
"""Seconds until a statement is given up, so that a dead network cannot hang a caller."""

_HIGHEST_PORT: Final = 65_535

# What a URL may hold: the driver would refuse the others, and numbers that are texts, only as it
# connects. SQLAlchemy reads prepared_statement_cache_size itself.
_OBJECTS: Final = {"connection_class", "loop", "record_class", "server_settings"}
_URL_OPTIONS: Final = frozenset(signature(asyncpg.connect).parameters) - _OBJECTS | {
    "prepared_statement_cache_size"
}
_SECONDS: Final = {"command_timeout", "timeout"}
_COUNTS: Final = {
    "max_cacheable_statement_size",
    "max_cached_statement_lifetime",
    "statement_cache_size",
}
_POSITIVE: Final = re.compile(r"(?=.*[1-9])[0-9]{1,9}(\.[0-9]{1,9})?")
_WHOLE: Final = re.compile(r"[0-9]{1,9}")

_SCHEMA_NAME: Final = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_]{0,62}")


def _unique_statement_name() -> str:
    return f"__asyncpg_{uuid.uuid4()}__"


# Behind a pooler in transaction mode the next statement may reach another server process, which
# does not know the statements prepared before: cache none, and never use a name twice.
_PGBOUNCER: Final[dict[str, Any]] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": _unique_statement_name,
}


def create_engine(
    url: URL, options: Mapping[str, Any], *, schema: str | None, pgbouncer: bool
) -> AsyncEngine:
    """Return an engine as ``database.create_engine`` describes it."""
    _check(url)
    _check_schema(schema, pgbouncer=pgbouncer)
    connect_args: dict[str, Any] = {
        "timeout": CONNECT_TIMEOUT,
        "command_timeout": COMMAND_TIMEOUT,
        **_numbers(url),
        **(_PGBOUNCER if pgbouncer else {}),
        **options.get("connect_args", {}),
    }
    connect_args["server_settings"] = {
        "timezone": "UTC",
        "application_name": "zotify_async_crud",
        **({} if schema is None else {"search_path": f'"{schema}"'}),
        **connect_args.get("server_settings", {}),
    }
    settings = {"pool_pre_ping": True, **options, "connect_args": connect_args}
    engine = create_async_engine(url, **settings)
    engine.update_execution_options(**{SCHEMA: schema})
    return engine


def _check(url: URL) -> None:
    if url.port is not None and not 0 < url.port <= _HIGHEST_PORT:
        raise InvalidValue("url", "Port should be between 1 and 65535")
    for option in sorted(url.query.keys() - _URL_OPTIONS):
        raise InvalidValue("url", f"{option} is no option of asyncpg.connect")


def _numbers(url: URL) -> dict[str, float]:
    """Return the numbers among the options of *url*, which are texts there."""
    numbers: dict[str, float] = {}
    for option, given in url.query.items():
        if option in _SECONDS:
            if not _POSITIVE.fullmatch(str(given)):
                raise InvalidValue("url", f"{option} should be a positive number of seconds")
            numbers[option] = float(str(given))
        elif option in _COUNTS:
            if not _WHOLE.fullmatch(str(given)):
                raise InvalidValue("url", f"{option} should be a whole number")
            numbers[option] = int(str(given))
    return numbers


def _check_schema(schema: str | None, *, pgbouncer: bool) -> None:
    if schema is None:
        return
    if pgbouncer:
        reason = "PgBouncer passes no search_path on: use ALTER ROLE ... SET search_path"
        raise InvalidValue("schema", reason)
    if not isinstance(schema, str) or not _SCHEMA_NAME.fullmatch(schema):
        reason = "Input should be up to 63 letters, digits and underscores, and not begin with pg_"
        raise InvalidValue("schema", reason)
