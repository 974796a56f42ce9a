"""Foreign keys of other tables that refer to the original's, and are to refer to ours."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect

from zotify_async_crud._dialects.takeover import takeover_for
from zotify_async_crud.adoption._original import ORIGINALS
from zotify_async_crud.errors import AdoptionRefused

_LASTING: Final = {"download_jobs": ["job_id"], "tracks": ["id"], "playlists": ["id"]}
"""What rows keep, and others may refer to; a token gets another id."""


def drop_references(connection: Connection) -> list[str]:
    """Drop the foreign keys that keep the original's tables from being dropped.

    Return the statements that add them again.

    Raises:
        AdoptionRefused: One refers to what will not be there any more.
    """
    _check_references(connection)
    return takeover_for(connection).drop_references(connection, list(ORIGINALS))


def add_references(connection: Connection, statements: list[str]) -> None:
    """Add foreign keys as ``drop_references`` returned them."""
    for statement in statements:
        connection.exec_driver_sql(statement)


def _check_references(connection: Connection) -> None:
    for (_, name), keys in inspect(connection).get_multi_foreign_keys().items():
        for key in keys:
            referred = key["referred_table"]
            if name in ORIGINALS or referred not in ORIGINALS or key["referred_schema"]:
                continue
            if key["referred_columns"] != _LASTING.get(referred):
                reason = f"a foreign key of {name} refers to {referred}: drop that before"
                raise AdoptionRefused(reason)
