"""Somebody else's tables: who may use them, in what order they were filled, and what needs them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from sqlalchemy import ColumnElement, Connection, Select, delete, literal_column, text
from sqlalchemy import table as table_named


class Takeover(Protocol):
    """What differs between the databases where tables are made anew; each object is stateless."""

    insertion_order: ColumnElement[Any]
    """What sorts the rows of a query's only table as they were inserted, as far as that is known.

    On PostgreSQL a row that was updated, or that took the room of a deleted one, is elsewhere.
    """

    def hold(self, connection: Connection, tables: Sequence[str]) -> None:
        """Keep everybody else from *tables* until the transaction ends, which may write."""
        ...

    def dependents(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        """Return what would break or be gone if *tables* were dropped: views, triggers and such.

        Foreign keys are left out, unless they are of tables in another schema.
        """
        ...

    def unordered(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        """Return those of *tables* whose rows have no ``insertion_order``."""
        ...

    def drop_references(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        """Drop the foreign keys of other tables that keep *tables* from being dropped.

        Return the statements that add them again, as they were.
        """
        ...

    def wipe(self, connection: Connection, table: str) -> None:
        """Delete all rows of a table that will be dropped, so that no file has them any more."""
        ...

    def temporary_copy(
        self, connection: Connection, name: str, query: Select[Any]
    ) -> contextlib.AbstractContextManager[None]:
        """Make a table of what *query* finds, for the block and at most the transaction."""
        ...


# what is a table's own, as its indexes are, depends on it automatically or internally; so do some
# things that somebody has made, and that would be gone without a word
_DEPENDING: Final = text(
    """
    WITH tables AS (
        SELECT to_regclass(name)::oid AS oid FROM unnest(CAST(:tables AS text[])) AS name
    ), dropped AS (
        SELECT 'pg_class'::regclass AS classid, oid FROM tables
        UNION SELECT 'pg_type'::regclass, unnest(ARRAY[pg_type.oid, typarray])
            FROM pg_type JOIN tables ON typrelid = tables.oid
        UNION SELECT classid, objid FROM pg_depend JOIN tables ON refobjid = tables.oid
            WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass
            AND deptype IN ('a', 'i') AND objid IN (SELECT oid FROM pg_class WHERE relkind = 'S')
    )
    SELECT DISTINCT pg_describe_object(pg_depend.classid, objid, objsubid)
    FROM pg_depend JOIN dropped ON (refclassid, refobjid) = (dropped.classid, dropped.oid)
    WHERE (
        deptype = 'n' OR pg_depend.classid IN (
            'pg_trigger'::regclass, 'pg_policy'::regclass, 'pg_publication_rel'::regclass
        )
    )
    AND NOT (
        pg_depend.classid = 'pg_constraint'::regclass AND objid IN (
            SELECT oid FROM pg_constraint WHERE contype = 'f' AND pg_table_is_visible(conrelid)
        )
    )
    AND NOT (
        pg_depend.classid = 'pg_attrdef'::regclass AND objid IN (
            SELECT oid FROM pg_attrdef WHERE adrelid IN (SELECT oid FROM tables)
        )
    )
    ORDER BY 1
    """
)
# that of a partition comes and goes with the partitioned table's
_REFERENCES: Final = text(
    """
    WITH tables AS (
        SELECT to_regclass(name)::oid AS oid FROM unnest(CAST(:tables AS text[])) AS name
    )
    SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
        format('ALTER TABLE %s ADD CONSTRAINT %I %s',
            conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
    AND confrelid IN (SELECT oid FROM tables) AND conrelid NOT IN (SELECT oid FROM tables)
    """
)
_PROGRAMS: Final = text(
    "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view') ORDER BY name"
)
_MADE: Final = text("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name")
_WITHOUT_ROWID: Final = re.compile(r"\)[^)]*\bWITHOUT\s+ROWID\b[^)]*$", re.IGNORECASE)


class _PostgreSQL:
    insertion_order: ColumnElement[Any] = literal_column("ctid")

    def hold(self, connection: Connection, tables: Sequence[str]) -> None:
        # at once as DROP needs it: to make a lock stronger later can deadlock
        connection.execute(text(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE"))

    def dependents(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        return list(connection.execute(_DEPENDING, {"tables": list(tables)}).scalars())

    def unordered(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        return []

    def drop_references(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        found = connection.execute(_REFERENCES, {"tables": list(tables)}).all()
        for dropping, _ in found:
            connection.exec_driver_sql(dropping)
        return [adding for _, adding in found]

    def wipe(self, connection: Connection, table: str) -> None:
        """A table's files are deleted with it."""

    @contextlib.contextmanager
    def temporary_copy(
        self, connection: Connection, name: str, query: Select[Any]
    ) -> Iterator[None]:
        # not dropped before: the driver closes no cursor on it
        values = query.compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {values}")
        yield


class _SQLite:
    insertion_order: ColumnElement[Any] = literal_column("rowid")

    def hold(self, connection: Connection, tables: Sequence[str]) -> None:
        """There is one writer at a time, and it is this one."""

    def dependents(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        mention = re.compile(rf"\b({'|'.join(tables)})\b", re.IGNORECASE)
        programs = connection.execute(_PROGRAMS)
        return [f"{kind} {name}" for kind, name, sql in programs if mention.search(sql)]

    def unordered(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        made = connection.execute(_MADE)
        return [name for name, sql in made if name in tables and _WITHOUT_ROWID.search(sql)]

    def drop_references(self, connection: Connection, tables: Sequence[str]) -> list[str]:
        """There they refer to whatever has the table's name."""
        return []

    def wipe(self, connection: Connection, table: str) -> None:
        # https://www.sqlite.org/pragma.html#pragma_secure_delete
        before = connection.exec_driver_sql("PRAGMA secure_delete").scalar_one()
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
        connection.execute(delete(table_named(table)))
        connection.exec_driver_sql(f"PRAGMA secure_delete = {before}")

    @contextlib.contextmanager
    def temporary_copy(
        self, connection: Connection, name: str, query: Select[Any]
    ) -> Iterator[None]:
        values = query.compile(dialect=connection.dialect)
        connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {name} AS {values}")
        yield
        connection.exec_driver_sql(f"DROP TABLE {name}")


_TAKEOVERS: Final[dict[str, Takeover]] = {"postgresql": _PostgreSQL(), "sqlite": _SQLite()}


def takeover_for(connection: Connection) -> Takeover:
    """Return what differs on the database of *connection*, which is one that is supported."""
    return _TAKEOVERS[connection.dialect.name]
