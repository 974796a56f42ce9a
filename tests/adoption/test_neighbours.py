"""Other tables of an adopted database: they stay as they are, whatever refers to whatever."""

from __future__ import annotations

from typing import Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.adoption.original import (
    ORIGINALS,
    VERSIONS,
    Version,
    contents,
    create_original,
    entry,
    execute,
    insert,
    job,
    token,
)
from tests.adoption.test_odd_rows import only_postgresql
from tests.adoption.test_refusals import refusal
from tests.support.schema import description_of
from zotify_async_crud import crud, database, migrations
from zotify_async_crud.adoption import adopt
from zotify_async_crud.errors import ConstraintViolated

USER: Final = {"id": "u", "username": "n", "hashed_password": "h", "role": "user"}
FAVOURITES: Final = """
    CREATE TABLE favourites (
        track_id VARCHAR NOT NULL CONSTRAINT of_track REFERENCES tracks (id) ON DELETE CASCADE,
        playlist_id VARCHAR REFERENCES playlists (id) ON DELETE SET NULL,
        job_id VARCHAR, user_id VARCHAR REFERENCES users (id),
        CONSTRAINT "of job" FOREIGN KEY (job_id) REFERENCES download_jobs (job_id)
            DEFERRABLE INITIALLY DEFERRED
    )
"""


@pytest.mark.parametrize("version", VERSIONS)
async def test_other_tables_stay_byte_for_byte(empty_engine: AsyncEngine, version: Version) -> None:
    """Those of the original that this library has no use for, and any others."""
    await create_original(empty_engine, version)
    await execute(empty_engine, "CREATE TABLE notes (id INTEGER PRIMARY KEY, note VARCHAR)")
    await insert(empty_engine, "users", USER)
    await insert(empty_engine, "notes", {"id": 7, "note": "a"}, {"id": 8, "note": None})
    await insert(empty_engine, "spotify_tokens", token(user_id="u"))
    if version != "2025-08-11":
        await insert(empty_engine, "liked_songs", {"id": 1, "user_id": "u", "track_id": "gone"})
        logged = {"job_id": "j", "job_type": "t", "status": "s", "progress": 1}
        await insert(empty_engine, "job_logs", logged)
    described, _ = await contents(empty_engine)
    others = sorted(described.keys() - ORIGINALS)
    before = await contents(empty_engine, others)

    await adopt(empty_engine)

    assert {"notes", "users"} <= {*others}
    assert await contents(empty_engine, others) == before


async def create_favourites(engine: AsyncEngine) -> None:
    """Make the original's database, and a table of another's that refers to what is in it."""
    await create_original(engine)
    await execute(engine, FAVOURITES)
    await insert(engine, "users", USER)
    await insert(engine, "tracks", {"id": "a"}, {"id": "b"})
    await insert(engine, "playlists", {"id": "p", "name": "Focus"})
    await insert(engine, "playlist_track_association", entry("p", "a"))
    await insert(engine, "download_jobs", job())
    rows = (
        {"track_id": key, "playlist_id": "p", "job_id": "j", "user_id": "u"} for key in ("a", "b")
    )
    await insert(engine, "favourites", *rows)


async def test_who_refers_to_a_table_refers_to_ours(empty_engine: AsyncEngine) -> None:
    """By the same foreign keys as before, which do what they did."""
    await create_favourites(empty_engine)
    before = await contents(empty_engine, ["favourites", "users"])

    await adopt(empty_engine)

    assert await contents(empty_engine, ["favourites", "users"]) == before
    async with database.create_session_factory(empty_engine).begin() as db:
        await crud.delete_playlist(db, "p")
        await crud.delete_orphan_tracks(db, limit=1)
    async with empty_engine.connect() as connection:
        found = await connection.exec_driver_sql("SELECT track_id, playlist_id FROM favourites")
        assert list(map(tuple, found)) == [("b", None)]
    with pytest.raises(ConstraintViolated):
        await forget_jobs(empty_engine)


@only_postgresql
async def test_a_foreign_key_of_partitions_stays(empty_engine: AsyncEngine) -> None:
    """Each partition has it, by the table that they are of."""
    await create_original(empty_engine)
    await execute(
        empty_engine,
        "CREATE TABLE mine (id VARCHAR REFERENCES tracks (id)) PARTITION BY LIST (id)",
        "CREATE TABLE mine_a PARTITION OF mine FOR VALUES IN ('a')",
    )
    await insert(empty_engine, "tracks", {"id": "a"})
    await insert(empty_engine, "mine", {"id": "a"})
    before = await contents(empty_engine, ["mine", "mine_a"])

    await adopt(empty_engine)

    assert await contents(empty_engine, ["mine", "mine_a"]) == before
    with pytest.raises(ConstraintViolated), database.translated_errors():
        await execute(empty_engine, "DELETE FROM tracks")


@only_postgresql
@pytest.mark.parametrize("track_id", ["a", "gone"])
async def test_a_foreign_key_that_was_never_checked_is_not(
    empty_engine: AsyncEngine, track_id: str
) -> None:
    """Whether a row refers to a track that there is, or to none, is not for an adoption to say."""
    await create_original(empty_engine)
    await execute(empty_engine, 'CREATE TABLE "my own" ("a track" VARCHAR)')
    await insert(empty_engine, "tracks", {"id": "a"})
    await insert(empty_engine, '"my own"', {'"a track"': track_id})
    key = 'CONSTRAINT "of it" FOREIGN KEY ("a track") REFERENCES tracks (id) NOT VALID'
    await execute(empty_engine, f'ALTER TABLE "my own" ADD {key}')

    async def key_now() -> object:
        async with empty_engine.connect() as connection:
            found = await connection.exec_driver_sql(
                "SELECT conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint"
                " WHERE contype = 'f' AND conname = 'of it'"
            )
            return tuple(found.one())

    before = await key_now()

    await adopt(empty_engine)

    assert await key_now() == before


async def forget_jobs(engine: AsyncEngine) -> None:
    """Delete all jobs."""
    with database.translated_errors():
        async with engine.begin() as connection:
            await connection.exec_driver_sql("DELETE FROM download_jobs")


async def test_a_refused_database_keeps_its_foreign_keys(empty_engine: AsyncEngine) -> None:
    """They are dropped only where they come back."""
    await create_favourites(empty_engine)
    await insert(empty_engine, "playlists", {"id": "", "name": "n"})

    assert "playlists.id" in await refusal(empty_engine)


@pytest.mark.parametrize(
    ("table", "column", "type_"),
    [("spotify_tokens", "id", "INTEGER"), ("playlist_track_association", "playlist_id", "VARCHAR")],
)
async def test_who_refers_to_what_does_not_last_is_refused(
    empty_engine: AsyncEngine, table: str, column: str, type_: str
) -> None:
    """The token gets another id, and the association becomes another table."""
    await create_original(empty_engine, "2025-08-11")
    await execute(
        empty_engine,
        f"CREATE UNIQUE INDEX uq_{table} ON {table} ({column})",
        f"CREATE TABLE mine (id INTEGER PRIMARY KEY, theirs {type_} REFERENCES {table} ({column}))",
    )

    reason = f"a foreign key of mine refers to {table}: drop that before"
    assert await refusal(empty_engine) == reason


async def test_names_of_theirs_stand_in_nobodys_way(empty_engine: AsyncEngine) -> None:
    """An index that somebody has added may have the name of one of ours."""
    await create_original(empty_engine)
    await execute(
        empty_engine,
        "CREATE INDEX ix_download_jobs_pending ON download_jobs (status)",
        "CREATE INDEX ix_playlist_tracks_track_id ON playlist_track_association (track_id)",
    )
    await insert(empty_engine, "download_jobs", job())

    await adopt(empty_engine)

    await migrations.check_schema(empty_engine)
    described = (await description_of(empty_engine))["download_jobs"]
    assert [line for line in described if "_pending" in line and "available_at" in line]


@only_postgresql
async def test_tables_of_another_schema_are_looked_at(empty_engine: AsyncEngine) -> None:
    """Who refers to the original's from there is in the way; who has such names is not."""
    await create_original(empty_engine)
    await execute(
        empty_engine,
        "CREATE SCHEMA another",
        "CREATE TABLE another.tracks (id VARCHAR PRIMARY KEY)",
        "CREATE TABLE mine (track_id VARCHAR REFERENCES another.tracks (id))",
    )
    other = "CREATE TABLE another.mine (id VARCHAR CONSTRAINT of REFERENCES tracks (id))"
    await execute(empty_engine, other)
    reason = "constraint of on table another.mine is built on its tables: drop that before"
    assert await refusal(empty_engine) == reason
    await execute(empty_engine, "DROP TABLE another.mine")
    before = await contents(empty_engine, ["mine"])

    await adopt(empty_engine)

    assert await contents(empty_engine, ["mine"]) == before
