"""SQLite by aiosqlite."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import random
import sqlite3
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    FromClause,
    Index,
    Select,
    String,
    Subquery,
    Table,
    bindparam,
    event,
    func,
    literal,
    select,
    text,
    true,
    update,
)
from sqlalchemy import exc as sa_exc
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.schema import CreateIndex
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects.connections import dedicated
from zotify_async_crud._dialects.diagnosis import Check
from zotify_async_crud._dialects.seam import Columns, Listed, Queue, Types
from zotify_async_crud._dialects.sqlite_diagnosis import checks
from zotify_async_crud._dialects.sqlite_engine import create_engine, is_in_memory
from zotify_async_crud._dialects.sqlite_schema import changing_schema
from zotify_async_crud._dialects.types import UTCNow
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

# https://www.sqlite.org/rescode.html
_MEANINGS: Final[dict[int, type[DatabaseError]]] = {
    sqlite3.SQLITE_BUSY: TransactionConflict,
    sqlite3.SQLITE_LOCKED: TransactionConflict,
    sqlite3.SQLITE_FULL: DatabaseUnavailable,
    sqlite3.SQLITE_IOERR: DatabaseUnavailable,
    sqlite3.SQLITE_NOMEM: DatabaseUnavailable,
    sqlite3.SQLITE_INTERRUPT: DatabaseUnavailable,
    sqlite3.SQLITE_CANTOPEN: AccessRefused,
    sqlite3.SQLITE_READONLY: AccessRefused,
    sqlite3.SQLITE_PERM: AccessRefused,
    sqlite3.SQLITE_AUTH: AccessRefused,
    sqlite3.SQLITE_NOTADB: AccessRefused,
    # no such table or column: our own statements have no syntax errors
    sqlite3.SQLITE_ERROR: SchemaMismatch,
    sqlite3.SQLITE_CONSTRAINT: ConstraintViolated,
}


class _SQLite:
    writes_together = False
    indexes_beside_writers = False
    announcement: ColumnElement[Any] = literal("")  # they look at the file

    def insert(self, entity: type[DeclarativeBase] | Table) -> sqlite.Insert:
        return sqlite.insert(entity)

    def listed(self, values: Sequence[str]) -> Listed:
        array = bindparam(None, json.dumps(list(values)), String)
        rows = func.json_each(array).table_valued("key", "value", name="listed")
        return Listed(rows, rows.c.key, rows.c.value)

    def rows(self, name: str, types: Types, varying: frozenset[str]) -> Subquery:
        array = bindparam(name, type_=String())
        found = func.json_each(array).table_valued("value", name=name)
        typed = (
            func.json_extract(found.c.value, text(f"'$[{place}]'"), type_=type_).label(key)
            for place, (key, type_) in enumerate(types.items())
        )
        return select(*typed).subquery(f"{name}_rows")

    def created(self, name: str, types: Types, varying: frozenset[str]) -> Subquery:
        # its clock counts milliseconds, and what is due now must not be created after now
        rows = self.rows(name, types, varying)
        return select(rows, UTCNow().label("created_at")).subquery(f"{name}_created")

    def bytewise(self, column: ColumnElement[str]) -> ColumnElement[str]:
        return column  # as it compares by itself

    def row_parameters(
        self, name: str, columns: Columns, varying: frozenset[str]
    ) -> dict[str, Any]:
        values = (map(_stored, column) for column in columns.values())
        return {name: json.dumps(list(zip(*values, strict=True)))}

    def gathered(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.json_group_array(column, type_=JSON())

    def hold_first(self, queue: Queue) -> Executable:
        # SQLite has no row locks. A write, even of what stands there already, takes the file's only
        # write lock; the driver's own BEGIN comes before an UPDATE and not before a SELECT.
        columns = queue.table.__table__.c
        harmless = columns[queue.harmless]
        return (
            update(queue.table)
            .where(columns[queue.key.key] == _first(queue, literal(1)).scalar_subquery())
            .values({harmless: harmless})
            .returning(queue.table)
            .execution_options(synchronize_session=False)
        )

    def is_among_first(self, queue: Queue, limit: ColumnElement[int]) -> ColumnElement[bool]:
        key: ColumnElement[str] = queue.table.__table__.c[queue.key.key]
        return key.in_(_first(queue, limit))

    def by_index(self, key: ColumnElement[str], keys: Select[Any]) -> ColumnElement[bool]:
        return true()  # it does so

    def is_free(
        self, key: ColumnElement[str], found: Select[Any], held: FromClause
    ) -> ColumnElement[bool]:
        return key.in_(found)  # an UPDATE is alone

    def guard_transaction(self, connection: Connection) -> None:
        if not _has_begun(connection):
            # changes no row, and makes a driver that begins late begin now, with the write lock
            connection.exec_driver_sql("DELETE FROM download_jobs WHERE false")
        if not _has_begun(connection):
            raise TransactionRequired(
                "this session commits each statement (isolation_level='AUTOCOMMIT'):"
                " use an engine with a transactional isolation level"
            )
        _claim_connection(connection)

    def lock_out_writers(self, connection: Connection, table: str) -> None:
        """There is one writer at a time, and guard_transaction made it this one."""

    def join_writers(self, connection: Connection, table: str) -> None:
        """There is one writer at a time, and guard_transaction made it this one."""

    def plan_afresh(self, connection: Connection) -> None:
        """SQLite's foreign keys always go through the index of what they refer to."""

    def changing_schema(
        self, engine: AsyncEngine, *, in_steps: bool = False
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        return changing_schema(engine)

    def build_index(self, connection: Connection, index: Index) -> None:
        connection.execute(CreateIndex(index))

    def drop_index(self, connection: Connection, name: str) -> None:
        connection.execute(text(f"DROP INDEX IF EXISTS {name}"))

    def indexes(self, connection: Connection) -> set[str]:
        return set(connection.scalars(text("SELECT name FROM sqlite_schema WHERE type = 'index'")))

    def create_engine(
        self,
        url: URL,
        *,
        schema: str | None,
        read_only: bool,
        pgbouncer: bool,
        options: Mapping[str, Any],
    ) -> AsyncEngine:
        if schema is not None:
            raise InvalidValue("schema", "Input should be None: SQLite has no schemas")
        if pgbouncer:
            raise InvalidValue("pgbouncer", "Input should be False: SQLite has no pooler")
        if "\0" in str(url.database):
            raise InvalidValue("url", "String should not contain NUL characters")
        return create_engine(url, options, read_only=read_only)

    def exists(self, url: URL) -> bool:
        if is_in_memory(url) or "uri" in url.query:
            return True
        try:
            Path(str(url.database)).stat()
        except OSError as error:
            return not isinstance(error, FileNotFoundError)  # to connect tells what is wrong
        return True

    def checks(self, tables: Collection[str], *, pgbouncer: bool) -> Mapping[str, Check]:
        return checks()

    @property
    def notification(self) -> None:
        """They look at the file."""

    def looks_for_others(self, url: URL) -> bool:
        return not is_in_memory(url)  # no other process can see it

    async def watch_others(
        self, engine: AsyncEngine, watcher: Callable[[], None], interval: float
    ) -> None:
        if not self.looks_for_others(engine.url):
            return
        async with dedicated(engine) as driver:
            seen = None
            while True:
                # changes when another connection has committed; it reads one page at most
                cursor = await driver.execute("PRAGMA data_version")
                version = await cursor.fetchone()
                await cursor.close()
                if version != seen:
                    seen = version
                    watcher()
                await asyncio.sleep(interval * random.uniform(1.2, 1.6))

    def translate(self, error: BaseException) -> DatabaseError | None:
        cause = error.orig if isinstance(error, sa_exc.DBAPIError) else error
        if not isinstance(cause, sqlite3.Error):
            return None
        code = getattr(cause, "sqlite_errorcode", None)  # absent where the driver itself complains
        if code is None:
            lost = isinstance(error, sa_exc.DBAPIError) and error.connection_invalidated
            return (DatabaseUnavailable if lost else DatabaseError)(str(cause))
        meaning = _MEANINGS.get(code & 0xFF, DatabaseError)  # the low byte is the primary code
        return meaning(str(cause), cause.sqlite_errorname)


def _first(queue: Queue, limit: ColumnElement[int]) -> Select[Any]:
    """Return the keys of what is due, in order, which the index has without sorting.

    The priorities are a list and not joined: once ANALYZE has run, SQLite 3.40 puts a Bloom filter
    before the join, which reads the whole table and, over an index on an expression, finds nothing.
    """
    return (
        select(queue.key)
        .where(
            queue.waiting,
            queue.priority.in_(select(queue.priorities().c.priority)),
            queue.due,
            queue.opened,
        )
        .order_by(queue.priority.desc(), queue.turn, queue.key)
        .limit(limit)
    )


def _stored(value: Any) -> Any:
    """Return *value* as SQLite keeps it; JSON has no datetimes."""
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat(" ", "microseconds")
    return value


def _driver(connection: Connection) -> Any:
    adapted: Any = connection.connection.dbapi_connection  # also where it has left its pool
    return adapted.driver_connection


def _has_begun(connection: Connection) -> bool:
    try:
        begun: bool = _driver(connection).in_transaction
    except ValueError:  # it is closed, as the next statement will tell in the words of SQLAlchemy
        return False
    return begun


_HOLDER: Final = "zotify_async_crud.holder"


def _claim_connection(connection: Connection) -> None:
    """Refuse a driver connection that another open transaction is using at the same time.

    A plain engine on ``:memory:`` hands one connection to everybody; what one task rolls back or
    commits is then everybody's.
    """
    info = connection.connection.record_info
    if info is None:  # detached from its pool, and so nobody else's
        return
    holder = info.get(_HOLDER, _nobody)()
    if holder is not None and holder is not connection and holder.in_transaction():
        # the caller will now roll this transaction back, and with it the holder's
        event.listen(holder, "commit", _refuse_shared_connection)
        _refuse_shared_connection()
    info[_HOLDER] = weakref.ref(connection)


def _refuse_shared_connection(*_: object) -> None:
    raise TransactionRequired(
        "this engine shares one connection between concurrent sessions (an in-memory SQLite"
        " database): make it with zotify_async_crud.database.create_engine, or use a file"
    )


def _nobody() -> None:
    return None


SQLITE: Final = _SQLite()
