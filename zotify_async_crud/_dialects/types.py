"""Column types, defaults and table options that come out differently on each database."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import (
    DDL,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    Index,
    String,
    Table,
    event,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


def identifier(length: int) -> String:
    """Return the type of an id: compared byte by byte on both databases, whatever the locale."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def sized(column: str, longest: int) -> tuple[CheckConstraint, CheckConstraint]:
    """Return what keeps an identifier from being empty, or longer than *longest* characters.

    PostgreSQL's type sees to the longest, and it evaluates constraints at every write of a row.
    """
    return (
        CheckConstraint(f"{column} <> ''", name=column).ddl_if(dialect="postgresql"),
        CheckConstraint(f"length({column}) BETWEEN 1 AND {longest}", name=column).ddl_if(
            dialect="sqlite"
        ),
    )


class UTCDateTime(TypeDecorator[dt.datetime]):
    """An aware datetime in UTC, with microseconds, on databases with and without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime must have a time zone")
        return value.astimezone(dt.UTC)

    def process_result_value(
        self, value: dt.datetime | None, dialect: Dialect
    ) -> dt.datetime | None:
        # SQLite keeps no offset, and PostgreSQL's driver gives everything in UTC
        return value if value is None or value.tzinfo else value.replace(tzinfo=dt.UTC)


class Real(TypeDecorator[float]):
    """A double that is a float in Python also where SQLite's RETURNING gives an int for 0.0."""

    impl = Double
    cache_ok = True

    def process_result_value(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None else float(value)


class UTCNow(FunctionElement[dt.datetime]):
    """The database's clock when the statement began: one moment for all of its rows.

    With an argument, as many seconds later.
    """

    type = UTCDateTime()
    inherit_cache = True


# not clock_timestamp(), which is no one moment, and so keeps PostgreSQL from using an index
@compiles(UTCNow, "postgresql")
def _postgresql_now(element: UTCNow, compiler: SQLCompiler, **kw: Any) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"statement_timestamp() + make_interval(secs => {seconds})" if seconds else _PG_NOW


@compiles(UTCNow, "sqlite")
def _sqlite_now(element: UTCNow, compiler: SQLCompiler, **kw: Any) -> str:
    # in the very format that SQLAlchemy stores and compares datetimes, to the millisecond
    seconds = compiler.process(element.clauses, **kw)
    later = f", printf('%+.3f seconds', {seconds})" if seconds else ""
    return f"(strftime('%Y-%m-%d %H:%M:%f000', 'now'{later}))"


_PG_NOW: Final = "statement_timestamp()"


def partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Return an index of the rows that fit *where*, which both databases read alike.

    *columns* may be expressions.
    """
    keys = (column if column.isidentifier() else text(column) for column in columns)
    return Index(name, *keys, unique=unique, postgresql_where=text(where), sqlite_where=text(where))


def index_on(dialect: str, name: str, *columns: str) -> Index:
    """Return an index that only the database *dialect* has."""
    return Index(name, *columns, info={_ONLY_ON: dialect}).ddl_if(dialect=dialect)


def has_index(dialect: Dialect, index: Index) -> bool:
    """Return whether the database *dialect* is to have *index*."""
    return bool(index.info.get(_ONLY_ON, dialect.name) == dialect.name)


_ONLY_ON: Final = "zotify_async_crud.dialect"

CLUSTERED: Final = {"sqlite_with_rowid": False}
"""Options of a table that is read by ranges of its primary key: SQLite stores it in that order."""


def tune_for_updates(table: Table) -> None:
    """Set up *table* for rows that are updated several times and then stay.

    Room on each page lets PostgreSQL update in place, and vacuum must keep up with a queue
    however many finished rows the table holds.
    """
    settings = "fillfactor = 80, autovacuum_vacuum_scale_factor = 0.01"
    tune: Any = DDL(f"ALTER TABLE %(fullname)s SET ({settings})")  # type: ignore[no-untyped-call]
    event.listen(table, "after_create", tune.execute_if(dialect="postgresql"))
