"""What a schema is, in the words of the database itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

Description: TypeAlias = dict[str, list[str]]

_POSTGRESQL: Final = (
    """
    SELECT attname || ' ' || format_type(atttypid, atttypmod)
        || CASE WHEN attcollation = 950 THEN ' COLLATE C' ELSE '' END
        || CASE WHEN attnotnull THEN ' NOT NULL' ELSE '' END
        || coalesce(' DEFAULT ' || pg_get_expr(adbin, adrelid), '')
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
    """,
    """
    SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = to_regclass(:table) AND contype <> 'n' ORDER BY conname
    """,
    """
    SELECT pg_get_indexdef(indexrelid) || CASE WHEN indisvalid THEN '' ELSE ' INVALID' END
    FROM pg_index WHERE indrelid = to_regclass(:table) ORDER BY 1
    """,
    "SELECT unnest(reloptions) FROM pg_class WHERE oid = to_regclass(:table) ORDER BY 1",
)
_SQLITE: Final = (
    "SELECT sql FROM sqlite_master WHERE tbl_name = :table AND type = 'table'",
    """
    SELECT sql FROM sqlite_master
    WHERE tbl_name = :table AND sql IS NOT NULL AND type = 'index' ORDER BY name
    """,
)


async def description_of(engine: AsyncEngine) -> Description:
    """Return what stands in the catalogues about each table: all that there is to know."""
    async with engine.connect() as connection:
        return await connection.run_sync(_described)


def _described(connection: Connection) -> Description:
    queries = {"postgresql": _POSTGRESQL, "sqlite": _SQLITE}[connection.dialect.name]
    return {
        table: [
            line
            for query in queries
            for found in connection.execute(text(query), {"table": table}).scalars()
            for line in _lines(found)
        ]
        for table in sorted(inspect(connection).get_table_names())
    }


def _lines(found: str) -> Iterator[str]:
    """Yield a statement's lines, as SQLite keeps it; the order of constraints means nothing."""
    statement, *parts = found.replace('"', "").splitlines()
    stripped = [part.strip().rstrip(",") for part in parts if part.strip()]
    yield statement.strip()
    yield from (part for part in stripped if not part.startswith("CONSTRAINT"))
    yield from sorted(part for part in stripped if part.startswith("CONSTRAINT"))
