"""What stands in a database, whatever revision is written there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Dialect, Index, inspect

from zotify_async_crud._dialects import database_for
from zotify_async_crud._dialects.types import has_index
from zotify_async_crud.migrations._revisions import VERSION_TABLE
from zotify_async_crud.models import Base


def tables_in(connection: Connection) -> set[str]:
    """Return the names of the tables in the database that have the name of one of ours."""
    return Base.metadata.tables.keys() & set(inspect(connection).get_table_names())


def differences(connection: Connection) -> list[str]:
    """Return how the tables differ from those of this version.

    Tables, columns, types, defaults, indexes and keys are compared, and CHECK constraints are not.
    """
    options = {
        "include_object": partial(_is_ours, connection.dialect),
        "compare_server_default": True,
    }
    context = MigrationContext.configure(connection, opts=options)
    with warnings.catch_warnings():
        # SQLite's cannot be compared
        warnings.filterwarnings("ignore", message=".*expression-based index")
        return [_described(found) for found in compare_metadata(context, Base.metadata)]


def missing(connection: Connection) -> list[str]:
    """Return what this version needs and is not there, or is otherwise; more than that may be."""
    found = (difference.partition(" ") for difference in differences(connection))
    parts = [part for kind, _, part in found if not kind.startswith("remove_")]
    return sorted({*parts, *_missing_indexes(connection)})


def _missing_indexes(connection: Connection) -> Iterator[str]:
    there = database_for(connection.dialect).indexes(connection)
    for table in Base.metadata.tables.values():
        yield from (
            f"{table.name}.{index.name}"
            for index in table.indexes
            if has_index(connection.dialect, index) and index.name not in there
        )


def is_not_ours(name: str | None, type_: str, _: object) -> bool:
    """Leave out this library's tables, as ``include_name`` in the ``env.py`` of a service.

    Otherwise the service's own Alembic would drop them.
    """
    return type_ != "table" or name not in {*Base.metadata.tables, VERSION_TABLE}


def is_no_table_of_ours(_: object, name: str | None, type_: str, *__: object) -> bool:
    """Leave them out, as ``include_object``, where the service's metadata has them, too.

    Otherwise its Alembic would add the indexes that they have on another database only.
    """
    return type_ != "table" or name not in Base.metadata.tables


def _is_ours(dialect: Dialect, item: object, name: str | None, kind: str, *_: object) -> bool:
    if isinstance(item, Index):
        return has_index(dialect, item)
    return kind != "table" or name in Base.metadata.tables


def _described(difference: Any) -> str:
    if isinstance(difference, list):  # several about one column
        kind, _, table, column, *_ = difference[0]
        return f"{kind} {table}.{column}"
    kind, *_, item = difference
    table = getattr(item, "table", None)
    return f"{kind} {item.name}" if table is None else f"{kind} {table.name}.{item.name}"
