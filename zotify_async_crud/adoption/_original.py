"""The tables of the original Zotify API, and how they are told from any others.

Its versions made all five from the first on, by ``create_all``, which never changes a table that
there is. So each table may be of another version.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Float,
    Inspector,
    Integer,
    String,
    column,
    inspect,
    literal,
    select,
    table,
)
from sqlalchemy.types import TypeEngine

from zotify_async_crud._dialects.takeover import takeover_for
from zotify_async_crud.errors import AdoptionRefused
from zotify_async_crud.models import Base

Columns: TypeAlias = Mapping[str, type[TypeEngine[Any]]]

ASSOCIATION: Final = "playlist_track_association"
TOKENS: Final = "spotify_tokens"


class Original(NamedTuple):
    """One table; the *later* columns are missing in old versions."""

    columns: Columns
    key: str | None = None
    later: Columns = MappingProxyType({})
    unread: frozenset[str] = frozenset()
    """Columns that a version wrote and that none has read."""


ORIGINALS: Final[Mapping[str, Original]] = {
    ASSOCIATION: Original({"playlist_id": String, "track_id": String}),
    "playlists": Original({"id": String, "name": String}, "id"),
    "tracks": Original(
        {"id": String, "name": String},
        "id",
        later={"artist": String, "album": String},
        unread=frozenset({"created_at", "updated_at"}),
    ),
    "download_jobs": Original(
        {
            "job_id": String,
            "track_id": String,
            "status": String,
            "progress": Float,
            "created_at": DateTime,
            "error_message": String,
        },
        "job_id",
    ),
    TOKENS: Original(
        {
            "id": Integer,
            "user_id": String,
            "access_token": String,
            "refresh_token": String,
            "expires_at": DateTime,
        },
        "id",
    ),
}
"""Every table, in an order in which they can be dropped."""


def hold_original(connection: Connection) -> Mapping[str, frozenset[str]]:
    """Keep everybody else from the tables; return which columns each has, known or not.

    Raises:
        AdoptionRefused: They are not the original's, or there is more than can be taken over.
    """
    _check_names(set(inspect(connection).get_table_names()))
    takeover = takeover_for(connection)
    takeover.hold(connection, list(ORIGINALS))
    inspector = inspect(connection)
    found = {name: _columns(inspector, name, each) for name, each in ORIGINALS.items()}
    for name, columns in found.items():
        _check_unknown(connection, name, columns)
    for dependent in takeover.dependents(connection, list(ORIGINALS)):
        raise AdoptionRefused(f"{dependent} is built on its tables: drop that before")
    for name in takeover.unordered(connection, list(ORIGINALS)):
        raise AdoptionRefused(f"{name} does not keep its rows in the order in which they came")
    return found


def columns_of(name: str) -> list[str]:
    """Return the columns of the table that are known, in their order."""
    return [*ORIGINALS[name].columns, *ORIGINALS[name].later]


def _check_names(names: set[str]) -> None:
    if not names & ORIGINALS.keys():
        raise AdoptionRefused("it has no table of the original Zotify API")
    for name in sorted(ORIGINALS.keys() - names):
        raise AdoptionRefused(f"it has no table {name}, and so is not the original Zotify API's")
    for name in sorted(names & Base.metadata.tables.keys() - ORIGINALS.keys()):
        raise AdoptionRefused(f"it is half-migrated: {name} stands beside the original's tables")


def _columns(inspector: Inspector, name: str, original: Original) -> frozenset[str]:
    """Return the columns of the table, if it has those of the original's."""
    found = {each["name"]: each["type"] for each in inspector.get_columns(name)}
    for key in original.columns:
        if key not in found:
            raise AdoptionRefused(f"{name} has no column {key}, as the original Zotify API's has")
    for key, type_ in {**original.columns, **original.later}.items():
        if key in found and not isinstance(found[key], type_):
            raise AdoptionRefused(f"{name}.{key} is not of the original Zotify API's type")
    keys = inspector.get_pk_constraint(name)["constrained_columns"]
    if original.key is not None and keys != [original.key]:
        raise AdoptionRefused(f"the primary key of {name} is not {original.key}")
    return frozenset(found)


def _check_unknown(connection: Connection, name: str, columns: frozenset[str]) -> None:
    ours = Base.metadata.tables[name].c.keys() if name in Base.metadata.tables else []
    for key in sorted(columns - ORIGINALS[name].unread - {*columns_of(name)}):
        if key in ours:
            raise AdoptionRefused(f"it is half-migrated: {name} has the column {key} already")
        if has_rows(connection, name, column(key).is_not(None)):
            reason = f"{name}.{key} holds data that has no place here: move that elsewhere before"
            raise AdoptionRefused(reason)


def has_rows(connection: Connection, name: str, *where: ColumnElement[bool]) -> bool:
    """Tell whether the table has rows, of those *where* all is true."""
    query = select(literal(1)).select_from(table(name)).where(*where).limit(1)
    return connection.execute(query).first() is not None
