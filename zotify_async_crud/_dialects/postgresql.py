"""PostgreSQL by asyncpg."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    FromClause,
    Index,
    Select,
    Subquery,
    Table,
    TableValuedAlias,
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
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import DeclarativeBase, aliased
from sqlalchemy.sql import Executable
from sqlalchemy.types import TypeEngine

from zotify_async_crud._dialects.connections import dedicated
from zotify_async_crud._dialects.diagnosis import Check
from zotify_async_crud._dialects.joined import joined
from zotify_async_crud._dialects.postgresql_diagnosis import checks
from zotify_async_crud._dialects.postgresql_engine import create_engine
from zotify_async_crud._dialects.postgresql_errors import translate
from zotify_async_crud._dialects.postgresql_schema import (
    build_index,
    changing_schema,
    drop_index,
)
from zotify_async_crud._dialects.seam import (
    MOST_AT_ONCE,
    Columns,
    Listed,
    Queue,
    Types,
)
from zotify_async_crud._dialects.types import UTCDateTime, UTCNow
from zotify_async_crud.errors import (
    DatabaseUnavailable,
    TransactionRequired,
    ZotifyCrudError,
)

CHANNEL: Final = "zotify_download_jobs"
"""The channel of LISTEN and NOTIFY that tells of jobs that are due."""

_ONE_SNAPSHOT: Final = {"repeatable read", "serializable"}
"""The isolation levels at which a transaction sees what was committed when it began to read."""

_INDEXES: Final = text(
    "SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid"
    " WHERE indisvalid AND pg_table_is_visible(indexrelid)"
)


class _PostgreSQL:
    writes_together = True
    indexes_beside_writers = True
    # a statement must not fail because others have let the queue of notifications fill up
    announcement: ColumnElement[Any] = literal_column(
        "CASE WHEN pg_notification_queue_usage() < 0.5"
        f" THEN CAST(pg_notify('{CHANNEL}', '') AS text) ELSE '' END"
    )

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
        unnested = _unnested(name, types, varying).render_derived()
        return select(*_values(name, unnested, types, varying)).subquery(f"{name}_rows")

    def created(self, name: str, types: Types, varying: frozenset[str]) -> Subquery:
        # A moment for each, so that an index of nothing else has them in their order. It has passed
        # when the statement is over: no row is stored in a microsecond.
        unnested = _unnested(name, types, varying, with_ordinality="number").render_derived()
        later = unnested.c.number * literal_column("interval '1 microsecond'")
        created_at = type_coerce(UTCNow() + later, UTCDateTime()).label("created_at")
        values = _values(name, unnested, types, varying)
        return select(*values, created_at).subquery(f"{name}_rows")

    def bytewise(self, column: ColumnElement[str]) -> ColumnElement[str]:
        return column.collate("C")

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
        # the lock of an INSERT, even of nothing, which unlike LOCK TABLE can be asked for a value
        joining = text(
            f"WITH nothing AS (INSERT INTO {table} SELECT * FROM {table} WHERE false)"  # noqa: S608 - ours
            " SELECT current_setting('transaction_isolation')"
        )
        level = connection.execute(joining).scalar_one()
        if level in _ONE_SNAPSHOT:
            raise TransactionRequired(
                "this session would not see what others write while it waits for them"
                f" (isolation_level='{level.upper()}'): use READ COMMITTED for it"
            )

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

    def indexes(self, connection: Connection) -> set[str]:
        return set(connection.scalars(_INDEXES))

    def create_engine(
        self,
        url: URL,
        *,
        schema: str | None,
        read_only: bool,
        pgbouncer: bool,
        options: Mapping[str, Any],
    ) -> AsyncEngine:
        engine = create_engine(url, options, schema=schema, pgbouncer=pgbouncer)
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

    def translate(self, error: BaseException) -> ZotifyCrudError | None:
        return translate(error)


def _unnested(
    name: str, types: Types, varying: frozenset[str], with_ordinality: str | None = None
) -> TableValuedAlias:
    """Return what varies as a table, with the number of each row from 1 on if that has a name."""
    names = [key for key in types if key in varying]
    arrays = (_array(name, key, types[key]) for key in names)
    return func.unnest(*arrays).table_valued(*names, name=name, with_ordinality=with_ordinality)


def _values(
    name: str, unnested: TableValuedAlias, types: Types, varying: frozenset[str]
) -> Iterator[ColumnElement[Any]]:
    """Yield the columns of *types*, those that do not vary as parameters."""
    for key, type_ in types.items():
        if key in varying:
            yield type_coerce(unnested.c[key], type_).label(key)
        else:
            yield bindparam(f"{name}_{key}", type_=type_).label(key)


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


POSTGRESQL: Final = _PostgreSQL()
