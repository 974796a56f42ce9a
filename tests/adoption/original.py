"""The database of the original Zotify API: its tables, as ``create_all`` made them, and rows.

The statements are what its models came out as at three times. It had neither migrations of these
tables nor names for constraints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.schema import Description, description_of

Version: TypeAlias = Literal["2025-08-11", "2025-09-03", "2025-10-11"]

VERSIONS: Final[tuple[Version, ...]] = ("2025-08-11", "2025-09-03", "2025-10-11")
LAST: Final = VERSIONS[-1]

_WORDS: Final[dict[str, dict[str, str]]] = {
    "postgresql": {
        "naive": "TIMESTAMP WITHOUT TIME ZONE",
        "aware": "TIMESTAMP WITH TIME ZONE",
        "now": "now()",
        "serial": "SERIAL",
    },
    "sqlite": {
        "naive": "DATETIME",
        "aware": "DATETIME",
        "now": "CURRENT_TIMESTAMP",
        "serial": "INTEGER",
    },
}
_USERS: Final = """
    id VARCHAR NOT NULL, username VARCHAR NOT NULL, hashed_password VARCHAR NOT NULL,
    role VARCHAR NOT NULL, PRIMARY KEY (id)
"""
_PLAYLISTS: Final = "id VARCHAR NOT NULL, name VARCHAR NOT NULL, PRIMARY KEY (id)"
_JOBS: Final = """
    job_id VARCHAR NOT NULL, track_id VARCHAR NOT NULL, status VARCHAR NOT NULL,
    progress FLOAT{null}, created_at {{{time}}} DEFAULT {{now}}{null}, error_message VARCHAR,
    PRIMARY KEY (job_id)
"""
_ASSOCIATION: Final = """
    playlist_id VARCHAR{null}, track_id VARCHAR{null}, {key}
    FOREIGN KEY(playlist_id) REFERENCES playlists (id),
    FOREIGN KEY(track_id) REFERENCES tracks (id)
"""
_TOKENS: Final = """
    id {{serial}} NOT NULL, user_id VARCHAR, access_token VARCHAR NOT NULL,
    refresh_token VARCHAR NOT NULL, expires_at {{{time}}} NOT NULL, PRIMARY KEY (id),
    FOREIGN KEY(user_id) REFERENCES users (id)
"""
_JOB_LOGS: Final = """
    job_id VARCHAR NOT NULL, job_type VARCHAR NOT NULL, status VARCHAR NOT NULL,
    progress INTEGER NOT NULL, details TEXT, created_at {aware} DEFAULT {now} NOT NULL,
    updated_at {aware}, PRIMARY KEY (job_id)
"""
_LIKED_SONGS: Final = """
    id {serial} NOT NULL, user_id VARCHAR NOT NULL, track_id VARCHAR NOT NULL, PRIMARY KEY (id),
    FOREIGN KEY(user_id) REFERENCES users (id)
"""
_TRACKS: Final = "id VARCHAR NOT NULL, name VARCHAR, {more} PRIMARY KEY (id)"
_TIMES: Final = (
    "created_at {aware} DEFAULT {now} NOT NULL, updated_at {aware} DEFAULT {now} NOT NULL,"
)
_KEY: Final = "PRIMARY KEY (playlist_id, track_id),"
_OLD: Final = {
    "users": _USERS,
    "playlists": _PLAYLISTS,
    "tracks": _TRACKS.format(more=""),
    "download_jobs": _JOBS.format(null="", time="naive"),
    "playlist_track_association": _ASSOCIATION.format(null="", key=""),
    "spotify_tokens": _TOKENS.format(time="naive"),
}
_NEW: Final = {
    **_OLD,
    "tracks": _TRACKS.format(more="artist VARCHAR, album VARCHAR,"),
    "download_jobs": _JOBS.format(null=" NOT NULL", time="aware"),
    "playlist_track_association": _ASSOCIATION.format(null=" NOT NULL", key=_KEY),
    "spotify_tokens": _TOKENS.format(time="aware"),
    "job_logs": _JOB_LOGS,
    "liked_songs": _LIKED_SONGS,
}
_TABLES: Final[dict[Version, dict[str, str]]] = {
    "2025-08-11": _OLD,
    "2025-09-03": {
        **_NEW,
        "tracks": _TRACKS.format(more=f"artist VARCHAR, album VARCHAR, {_TIMES}"),
    },
    "2025-10-11": _NEW,
}


ORIGINALS: Final = frozenset(_OLD) - {"users"}
"""What this library has tables for, or for what is in them."""


class SQL(str):
    """An expression, and not a text."""

    __slots__ = ()


Row: TypeAlias = Mapping[str, Any]


def job(job_id: str = "j", **changes: Any) -> Row:
    """Return a pending job."""
    values = {"job_id": job_id, "track_id": f"t-{job_id}", "status": "pending", "progress": 0.0}
    return {**values, "created_at": "2025-09-01 10:00:00", **changes}


def token(id_: int = 1, **changes: Any) -> Row:
    """Return a token that has expired."""
    values = {"id": id_, "access_token": f"access-{id_}", "refresh_token": f"refresh-{id_}"}
    return {**values, "expires_at": "2025-09-01 11:00:00.123456", **changes}


def entry(playlist_id: str | None, track_id: str | None) -> Row:
    """Return what puts a track in a playlist."""
    return {"playlist_id": playlist_id, "track_id": track_id}


async def create_original(engine: AsyncEngine, version: Version = LAST) -> None:
    """Make the tables of *version*."""
    words = _WORDS[engine.dialect.name]
    tables = (
        f"CREATE TABLE {name} ({columns.format(**words)})"
        for name, columns in _TABLES[version].items()
    )
    await execute(engine, *tables, "CREATE UNIQUE INDEX ix_users_username ON users (username)")


async def execute(engine: AsyncEngine, *statements: str) -> None:
    """Run plain SQL, as a program does that knows nothing of foreign keys on SQLite."""
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            await _switch_foreign_keys(connection, "OFF")
        for statement in statements:
            await connection.exec_driver_sql(statement)
        await connection.commit()
        if engine.dialect.name == "sqlite":
            await _switch_foreign_keys(connection, "ON")


async def _switch_foreign_keys(connection: Any, value: str) -> None:
    driver = (await connection.get_raw_connection()).driver_connection
    await driver.execute(f"PRAGMA foreign_keys = {value}")


async def insert(engine: AsyncEngine, table: str, *rows: Row) -> None:
    """Insert rows by literals, which each database reads in its own way."""
    if not rows:
        return
    columns = ", ".join(rows[0])
    values = ", ".join(f"({', '.join(map(_literal, row.values()))})" for row in rows)
    await execute(engine, f"INSERT INTO {table} ({columns}) VALUES {values}")


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, SQL) or not isinstance(value, str):
        return str(value)
    return "'{}'".format(value.replace("'", "''"))


Contents: TypeAlias = tuple[Description, dict[str, list[str]]]


async def contents(engine: AsyncEngine, tables: Sequence[str] | None = None) -> Contents:
    """Return what stands in the catalogues and, byte for byte, in *tables*, or in all."""
    described = await description_of(engine)
    names = sorted(described if tables is None else tables)
    async with engine.connect() as connection:
        found = {name: await connection.run_sync(_rows, name) for name in names}
    return {name: described[name] for name in names}, found


def _rows(connection: Connection, table: str) -> list[str]:
    """Return the rows as the database shows them; not every value has a Python one."""
    columns = [column["name"] for column in inspect(connection).get_columns(table)]
    sqlite = " || ' ' || ".join(f"typeof({column}) || hex({column})" for column in columns)
    shown = {"postgresql": f"CAST({table} AS text)", "sqlite": sqlite}[connection.dialect.name]
    return sorted(connection.execute(text(f"SELECT {shown} FROM {table}")).scalars())
