"""PostgreSQL by asyncpg."""

from __future__ import annotations

import asyncio
import re
import traceback
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from inspect import signature
from typing import Any, Final

import asyncpg
from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    FromClause,
    Index,
    Select,
    Subquery,
    Table,
    Text,
    any_,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    text,
    true,
    type_coerce,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, aliased
from sqlalchemy.sql import Executable
from sqlalchemy.types import TypeEngine

from zotify_async_crud._dialects.connections import dedicated
from zotify_async_crud._dialects.diagnosis import Check
from zotify_async_crud._dialects.joined import joined
from zotify_async_crud._dialects.postgresql_diagnosis import checks
from zotify_async_crud._dialects.postgresql_schema import (
    build_index,
    changing_schema,
    drop_index,
)
from zotify_async_crud._dialects.seam import (
    MOST_AT_ONCE,
    SCHEMA,
    Columns,
    Listed,
    Queue,
    Types,
)
from zotify_async_crud.errors import (
    AccessRefused,
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    InvalidValue,
    SchemaMismatch,
    TransactionConflict,
    TransactionRequired,
)

CONNECT_TIMEOUT: Final = 10.0
"""Seconds until an attempt to connect is given up."""

COMMAND_TIMEOUT: Final = 60.0
"""Seconds until a statement is given up, so that a dead network cannot hang a caller."""

CHANNEL: Final = "zotify_download_jobs"
"""The channel of LISTEN and NOTIFY that tells of jobs that are due."""

_HIGHEST_PORT: Final = 65_535

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
_HINTS: Final = {"26000": _POOLER, "42P05": _POOLER}


class _PostgreSQL:
    writes_together = True
    indexes_beside_writers = True

    def insert(self, entity: type[DeclarativeBase] | Table) -> postgresql.Insert:
        return postgresql.insert(entity)

    def listed(self, values: Sequence[str]) -> Listed:
        (text,), mark, _ = joined([values])
        array = func.string_to_array(*(bindparam(None, part, Text()) for part in (text, mark)))
        rows = func.unnest(array).table_valued("value", with_ordinality="position")
        rows = rows.render_derived(name="listed")
        # ORDINALITY counts from 1, and every position in this library from 0
        return Listed(rows, rows.c.position - 1, rows.c.value)

    def rows(self, name: str, types: Types, varying: frozenset[str]) -> Subquery:
        names = [key for key in types if key in varying]
        arrays = (_array(name, key, types[key]) for key in names)
        unnested = func.unnest(*arrays).table_valued(*names, name=name).render_derived()
        values = (
            type_coerce(unnested.c[key], type_)
            if key in varying
            else bindparam(f"{name}_{key}", type_=type_)
            for key, type_ in types.items()
        )
        labelled = (value.label(key) for key, value in zip(types, values, strict=True))
        return select(*labelled).subquery(f"{name}_rows")

    def row_parameters(
        self, name: str, columns: Columns, varying: frozenset[str]
    ) -> dict[str, Any]:
        lists = {key: values for key, values in columns.items() if key in varying}
        sent = joined(lists.values())
        given = {key: values[0] for key, values in columns.items()}
        given |= dict(zip(lists, sent.texts, strict=True))
        given |= {"mark": sent.mark, "null": sent.null}
        return {f"{name}_{key}": value for key, value in given.items()}

    def gathered(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.array_agg(column, type_=postgresql.ARRAY(column.type))

    def hold_first(self, queue: Queue) -> Executable:
        priorities, due = _due(queue, select(queue.rows))
        entity = aliased(queue.table, due)
        first = select(entity).select_from(priorities.join(due, true())).where(queue.opened)
        return first.limit(literal_column("1"))

    def is_among_first(self, queue: Queue, limit: ColumnElement[int]) -> ColumnElement[bool]:
        priorities, due = _due(queue, select(queue.key))
        keys = select(due.c[queue.key.key]).select_from(priorities.join(due, true()))
        first = keys.where(queue.opened).limit(limit)
        return _is_one_of(queue.table.__table__.c[queue.key.key], first)

    def by_index(self, key: ColumnElement[str], keys: Select[Any]) -> ColumnElement[bool]:
        return _is_one_of(key, keys)

    def is_free(
        self, key: ColumnElement[str], found: Select[Any], held: FromClause
    ) -> ColumnElement[bool]:
        return _is_one_of(key, found.with_for_update(skip_locked=True, of=held))

    def guard_transaction(self, connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        if connection.dialect.detect_autocommit_setting(driver):
            raise TransactionRequired(
                "this session commits each statement (isolation_level='AUTOCOMMIT'):"
                " use an engine with a transactional isolation level"
            )

    def lock_out_writers(self, connection: Connection, table: str) -> None:
        # conflicts with the lock of INSERT, UPDATE and DELETE, and not with that of SELECT
        connection.execute(text(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"))

    def join_writers(self, connection: Connection, table: str) -> None:
        # the lock that an INSERT takes
        connection.execute(text(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE"))

    def plan_afresh(self, connection: Connection) -> None:
        # The checks of foreign keys keep the plan that they made first. One made for a table of a
        # single page reads the whole table, for every row of ten thousand.
        connection.exec_driver_sql("DISCARD PLANS")

    def changing_schema(
        self, engine: AsyncEngine, *, in_steps: bool = False
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        return changing_schema(engine, in_steps=in_steps)

    def build_index(self, connection: Connection, index: Index) -> None:
        build_index(connection, index)

    def drop_index(self, connection: Connection, name: str) -> None:
        drop_index(connection, name)

    def create_engine(
        self,
        url: URL,
        *,
        schema: str | None,
        read_only: bool,
        pgbouncer: bool,
        options: Mapping[str, Any],
    ) -> AsyncEngine:
        _check(url)
        _check_schema(schema, pgbouncer=pgbouncer)
        connect_args: dict[str, Any] = {
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": COMMAND_TIMEOUT,
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
        return engine.execution_options(postgresql_readonly=True) if read_only else engine

    def exists(self, url: URL) -> bool:
        return True

    def checks(self, tables: Collection[str], *, pgbouncer: bool) -> Mapping[str, Check]:
        return checks(tables, pgbouncer=pgbouncer)

    @property
    def notification(self) -> Executable:
        # a hint need not be on the disk before it is given
        unsafe = func.set_config("synchronous_commit", "off", True)
        return select(unsafe, func.pg_notify(CHANNEL, ""))

    def looks_for_others(self, url: URL) -> bool:
        return False

    async def watch_others(
        self, engine: AsyncEngine, watcher: Callable[[], None], interval: float
    ) -> None:
        lost = asyncio.Event()
        async with dedicated(engine) as driver:
            driver.add_termination_listener(lambda _: lost.set())
            await driver.add_listener(CHANNEL, lambda *_: watcher())
            watcher()  # for what was missed while nobody listened
            await lost.wait()
        raise DatabaseUnavailable("the connection that listens was lost")

    def translate(self, error: BaseException) -> DatabaseError | None:
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
        if isinstance(error, sa_exc.DBAPIError):
            return DatabaseError(type(_origin(cause)).__name__)
        return None


def _array(name: str, key: str, type_: TypeEngine[Any]) -> ColumnElement[Any]:
    """Return as an array of PostgreSQL what ``joined`` has made one text."""
    text, mark, null = (bindparam(f"{name}_{part}", type_=Text()) for part in (key, "mark", "null"))
    return cast(func.string_to_array(text, mark, null), postgresql.ARRAY(type_))


def _due(queue: Queue, rows: Select[Any]) -> tuple[CTE, FromClause]:
    """Return the priorities and what is due in each, held as far as it is really read."""
    priorities = queue.priorities()
    due = (
        rows.where(queue.waiting, queue.priority == priorities.c.priority, queue.due)
        .order_by(queue.turn, queue.key)
        # a bound limit would let a generic plan sort the whole queue
        .limit(literal_column(str(MOST_AT_ONCE)))
        .with_for_update(skip_locked=True)
    )
    return priorities, due.lateral("due")


def _is_one_of(key: ColumnElement[str], found: Select[Any]) -> ColumnElement[bool]:
    # An array is made once. A subquery in IN may be run again, and then locks other rows.
    return key == any_(func.array(found.scalar_subquery()))


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


def _unique_statement_name() -> str:
    return f"__asyncpg_{uuid.uuid4()}__"


# Behind a pooler in transaction mode the next statement may reach another server process, which
# does not know the statements prepared before: cache none, and never use a name twice.
_PGBOUNCER: Final[dict[str, Any]] = {
    "statement_cache_size": 0,
    "prepared_statement_cache_size": 0,
    "prepared_statement_name_func": _unique_statement_name,
}


def _message(cause: BaseException | None, meaning: type[DatabaseError]) -> str:
    """Return what the server says, where that holds names only and no values of a row."""
    origin = _origin(cause)
    if issubclass(meaning, (AccessRefused, DatabaseUnavailable, SchemaMismatch)):
        return str(origin).partition("\n")[0]  # DETAIL and HINT follow
    return type(origin).__name__


def _origin(cause: BaseException | None) -> BaseException | None:
    """Return the driver's own exception, which SQLAlchemy's adapter has wrapped."""
    return cause.__cause__ if cause is not None and cause.__cause__ is not None else cause


# what SQLAlchemy reads from a URL itself; the driver refuses a name that it does not know too late
_URL_OPTIONS: Final = frozenset(signature(asyncpg.connect).parameters) | {
    "prepared_statement_cache_size"
}


_SCHEMA_NAME: Final = re.compile(r"(?!pg_)[A-Za-z_][A-Za-z0-9_]{0,62}")


def _check_schema(schema: str | None, *, pgbouncer: bool) -> None:
    if schema is None:
        return
    if pgbouncer:
        reason = "PgBouncer passes no search_path on: use ALTER ROLE ... SET search_path"
        raise InvalidValue("schema", reason)
    if not isinstance(schema, str) or not _SCHEMA_NAME.fullmatch(schema):
        reason = "Input should be up to 63 letters, digits and underscores, and not begin with pg_"
        raise InvalidValue("schema", reason)


def _check(url: URL) -> None:
    if url.port is not None and not 0 < url.port <= _HIGHEST_PORT:
        raise InvalidValue("url", "Port should be between 1 and 65535")
    for option in sorted(url.query.keys() - _URL_OPTIONS):
        raise InvalidValue("url", f"{option} is no option of asyncpg.connect")


POSTGRESQL: Final = _PostgreSQL()
