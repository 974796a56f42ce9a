"""Foreign keys of other tables that refer to the original's, and are to refer to ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Column, Connection, ForeignKeyConstraint, MetaData, Table, inspect
from sqlalchemy.schema import AddConstraint, DropConstraint

from zotify_async_crud.adoption._original import ORIGINALS
from zotify_async_crud.errors import AdoptionRefused

_LASTING: Final = {"download_jobs": ["job_id"], "tracks": ["id"], "playlists": ["id"]}
"""What rows keep, and others may refer to; a token gets another id."""


def drop_references(connection: Connection) -> list[ForeignKeyConstraint]:
    """Drop the foreign keys that keep the original's tables from being dropped, and return them.

    SQLite has none: there they refer to whatever has the table's name.

    Raises:
        AdoptionRefused: One refers to what will not be there any more.
    """
    found = list(_references(connection))
    if not connection.dialect.supports_alter:
        return []
    for constraint in found:
        connection.execute(DropConstraint(constraint))
    return found


def add_references(connection: Connection, constraints: list[ForeignKeyConstraint]) -> None:
    """Add foreign keys as ``drop_references`` returned them."""
    for constraint in constraints:
        connection.execute(AddConstraint(constraint))


def _references(connection: Connection) -> Iterator[ForeignKeyConstraint]:
    for (_, name), keys in inspect(connection).get_multi_foreign_keys().items():
        for key in keys:
            referred = key["referred_table"]
            if name in ORIGINALS or referred not in ORIGINALS or key["referred_schema"]:
                continue
            if key["referred_columns"] != _LASTING.get(referred):
                reason = f"a foreign key of {name} refers to {referred}: drop that before"
                raise AdoptionRefused(reason)
            yield _constraint(name, key)


def _constraint(name: str, key: Any) -> ForeignKeyConstraint:
    """Return a foreign key of the table as its inspection gives it."""
    metadata, referred = MetaData(), key["referred_table"]
    Table(referred, metadata, *map(Column, key["referred_columns"]))
    constraint = ForeignKeyConstraint(
        key["constrained_columns"],
        [f"{referred}.{column}" for column in key["referred_columns"]],
        name=key["name"],
        **key["options"],
    )
    Table(name, metadata, *map(Column, key["constrained_columns"]), constraint)
    return constraint
