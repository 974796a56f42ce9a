"""Column types, defaults and table options that come out differently on each database."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import DDL, DateTime, Dialect, Double, Index, String, Table, Text, event, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


def identifier(length: int) -> String:
    """Return the type of an id: compared byte by byte on both databases, whatever the locale."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


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
        if value is None:
            return None
        if value.tzinfo is None:  # SQLite keeps no offset
            return value.replace(tzinfo=dt.UTC)
        return value.astimezone(dt.UTC)


class Real(TypeDecorator[float]):
    """A double that is a float in Python also where SQLite's RETURNING gives an int for 0.0."""

    impl = Double
    cache_ok = True

    def process_result_value(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None else float(value)


class SecretValue(str):
    """A string that does not show itself in reprs, and so not in echoed parameters or rows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'**********'"


class SecretText(TypeDecorator[str]):
    """Text that never shows in ``echo``, logs, or the message of a failed statement."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else SecretValue(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else SecretValue(value)


class UTCNow(FunctionElement[dt.datetime]):
    """The database's clock at this very moment, not at the beginning of the transaction."""

    type = UTCDateTime()
    inherit_cache = True


@compiles(UTCNow, "postgresql")
def _postgresql_now(element: UTCNow, compiler: SQLCompiler, **kw: Any) -> str:
    return "clock_timestamp()"


@compiles(UTCNow, "sqlite")
def _sqlite_now(element: UTCNow, compiler: SQLCompiler, **kw: Any) -> str:
    # in the very format that SQLAlchemy stores and compares datetimes, to the millisecond
    return "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))"


def partial_index(name: str, *columns: str, where: str) -> Index:
    """Return an index of the rows that fit *where*, which both databases read alike."""
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(where))


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
