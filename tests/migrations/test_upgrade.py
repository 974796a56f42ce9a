"""Who may upgrade what: new, old, newer, unversioned and foreign databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.support.factories import Sessions, all_rows
from tests.support.schema import description_of
from zotify_async_crud import crud, database, errors, migrations
from zotify_async_crud._dialects import database_for
from zotify_async_crud.models import Base

Change = Callable[[AsyncEngine], Awaitable[None]]


async def downgrade_to_base(engine: AsyncEngine) -> None:
    """Take all away."""
    await migrations.downgrade(engine, "base")


CHANGES = [migrations.upgrade, downgrade_to_base]


async def execute(engine: AsyncEngine, *statements: str) -> None:
    """Run plain SQL."""
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def test_a_new_database_has_no_revision_and_then_the_newest(
    empty_engine: AsyncEngine,
) -> None:
    """What is missing is told with the command that mends it."""
    assert await migrations.current_revision(empty_engine) is None
    with pytest.raises(errors.SchemaMismatch, match="there are none: run `zotify-async-crud migr"):
        await migrations.check_schema(empty_engine)

    await migrations.upgrade(empty_engine)

    assert await migrations.current_revision(empty_engine) == migrations.newest_revision()
    await migrations.check_schema(empty_engine)


async def test_a_table_that_was_dropped_is_told(empty_engine: AsyncEngine) -> None:
    """The revision alone says nothing about it."""
    await migrations.upgrade(empty_engine)
    await execute(empty_engine, "DROP TABLE download_queue", "DROP TABLE spotify_tokens")

    with pytest.raises(
        errors.SchemaMismatch, match=r"missing .*: download_queue, spotify_tokens: "
    ):
        await migrations.check_schema(empty_engine)


async def test_an_older_revision_is_told_with_the_command_that_mends_it(
    empty_engine: AsyncEngine,
) -> None:
    """A service that starts on it should say so, and not fail at the first column."""
    await migrations.upgrade(empty_engine, "0001")

    with pytest.raises(errors.SchemaMismatch, match=r"revision 0001, .*run `zotify-async-crud mig"):
        await migrations.check_schema(empty_engine)


async def test_upgrading_again_changes_nothing(engine: AsyncEngine, sessions: Sessions) -> None:
    """Every start of a service may do it, also to a revision that it is past of."""
    async with sessions.begin() as db:
        await crud.create_or_update_playlist(db, "p", "Focus", ["t1", "t2"])
    before, rows = await description_of(engine), await all_rows(sessions)

    await migrations.upgrade(engine)
    await migrations.upgrade(engine, "0001")

    assert await description_of(engine) == before
    assert await all_rows(sessions) == rows


async def test_downgrading_to_what_is_newer_changes_nothing(empty_engine: AsyncEngine) -> None:
    """It is there already, and more; on a new database, too."""
    await migrations.downgrade(empty_engine, "0002")
    assert await description_of(empty_engine) == {}

    await migrations.upgrade(empty_engine, "0001")
    await migrations.downgrade(empty_engine, "0002")

    assert await migrations.current_revision(empty_engine) == "0001"


async def test_tables_that_the_metadata_made_are_as_good(empty_engine: AsyncEngine) -> None:
    """They get their revision, so that the next version can upgrade them."""
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await migrations.check_schema(empty_engine)
    assert await migrations.current_revision(empty_engine) is None

    await migrations.upgrade(empty_engine)

    assert await migrations.current_revision(empty_engine) == migrations.newest_revision()


@pytest.mark.parametrize("change", CHANGES)
async def test_a_newer_schema_is_left_alone(engine: AsyncEngine, change: Change) -> None:
    """Two versions of a service may run side by side while it is deployed."""
    await execute(engine, "UPDATE zotify_alembic_version SET version_num = '9999'")
    before = await description_of(engine)
    try:
        for refused in (change, migrations.check_schema):
            with pytest.raises(errors.SchemaMismatch, match=r"9999.* install a newer") as caught:
                await refused(engine)
            assert not caught.value.retry_safe
        assert await migrations.current_revision(engine) == "9999"
        assert await description_of(engine) == before
    finally:
        await execute(engine, "UPDATE zotify_alembic_version SET version_num = '0004'")


FOREIGN = {
    "one table": ["CREATE TABLE tracks (id INTEGER PRIMARY KEY, title TEXT)"],
    "a table of ours is missing": ["DROP TABLE download_queue"],
    "a column of ours is missing": ["ALTER TABLE spotify_tokens DROP COLUMN scope"],
    "an index of ours is missing": ["DROP INDEX ix_download_jobs_failed"],
    "an index of one database is missing": [
        "DROP INDEX IF EXISTS ix_download_jobs_created",
        "DROP INDEX IF EXISTS ix_download_jobs_created_at",
    ],
}


@pytest.mark.parametrize("change", [*CHANGES, migrations.check_schema])
@pytest.mark.parametrize("statements", FOREIGN.values(), ids=FOREIGN)
async def test_tables_that_are_not_ours_are_left_alone(
    empty_engine: AsyncEngine, statements: list[str], change: Change
) -> None:
    """Somebody else's may have the same names."""
    async with empty_engine.begin() as connection:
        if not statements[0].startswith("CREATE"):
            await connection.run_sync(Base.metadata.create_all)
    await execute(empty_engine, *statements)
    before = await description_of(empty_engine)

    with pytest.raises(errors.SchemaMismatch, match=r"not those of this version \(.*adopt`"):
        await change(empty_engine)

    assert await description_of(empty_engine) == before


async def test_tables_beside_ours_are_not_looked_at(empty_engine: AsyncEngine) -> None:
    """A service keeps its own in the same database, whatever they are."""
    await execute(
        empty_engine,
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)",
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)",
        "INSERT INTO alembic_version VALUES ('theirs')",
    )

    await migrations.upgrade(empty_engine)
    await migrations.check_schema(empty_engine)
    await migrations.downgrade(empty_engine, "base")

    assert {*await description_of(empty_engine)} == {"users", "alembic_version"}


@pytest.mark.parametrize("revision", ["", "base", "4", "heads", "+1", "0001:0002", "a\0b", None, 1])
async def test_an_unknown_revision_is_refused(empty_engine: AsyncEngine, revision: Any) -> None:
    """Before anything is done."""
    with pytest.raises(errors.InvalidValue, match="one of 0001, 0002, 0003, 0004, head") as caught:
        await migrations.upgrade(empty_engine, revision)
    assert caught.value.field == "revision"
    with pytest.raises(errors.InvalidValue, match="one of 0001, 0002, 0003, 0004, base"):
        await migrations.downgrade(empty_engine, "head" if revision == "base" else revision)
    assert await description_of(empty_engine) == {}


@pytest.mark.parametrize("options", [{}, {"isolation_level": "AUTOCOMMIT"}], ids=str)
async def test_an_engine_of_ones_own_can_be_upgraded(
    empty_url: str, options: dict[str, Any]
) -> None:
    """Its driver begins late on SQLite, or commits each statement: a failure leaves nothing."""
    engine = create_async_engine(empty_url, **options)
    await execute(engine, "CREATE TABLE download_queue (id INTEGER)")
    with pytest.raises(errors.SchemaMismatch):
        await migrations.upgrade(engine)
    await execute(engine, "DROP TABLE download_queue")

    for change in (migrations.upgrade, downgrade_to_base, migrations.upgrade):
        await change(engine)

    await migrations.check_schema(engine)
    await engine.dispose()


@pytest.mark.parametrize("mode", ["ours", "plain"])
async def test_a_database_in_memory_can_be_upgraded(mode: str) -> None:
    """It lives as long as its engine."""
    make: Any = database.create_engine if mode == "ours" else create_async_engine
    engine = make("sqlite+aiosqlite://")
    await migrations.upgrade(engine)
    await migrations.check_schema(engine)
    await engine.dispose()


async def test_a_read_only_engine_changes_nothing(empty_url: str) -> None:
    """It says so, and may check."""
    engine = database.create_engine(empty_url, read_only=True)
    with pytest.raises(errors.AccessRefused):
        await migrations.upgrade(engine)
    with pytest.raises(errors.SchemaMismatch):
        await migrations.check_schema(engine)
    await engine.dispose()


async def test_foreign_keys_are_as_before_once_a_table_was_made_anew(
    empty_engine: AsyncEngine,
) -> None:
    """They are off meanwhile on SQLite, since to drop a table deletes what refers to its rows."""
    await migrations.upgrade(empty_engine)
    async with database.create_session_factory(empty_engine).begin() as db:
        await crud.create_or_update_playlist(db, "p", "Focus", ["t1", "t2"])

    await migrations.downgrade(empty_engine, "0001")

    await execute(empty_engine, "DELETE FROM playlists")
    async with empty_engine.connect() as connection:
        assert not await connection.scalar(text("SELECT count(*) FROM playlist_tracks"))


async def test_rows_that_refer_to_nothing_are_no_reason_unless_they_are_new(
    tmp_path: Path,
) -> None:
    """A service's own tables may hold what they like; SQLite checks nothing by itself."""
    path = tmp_path / "zotify.db"
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, b INTEGER REFERENCES a)")
        file.execute("INSERT INTO a VALUES (1, 99)")
    file.close()
    engine = database.create_engine(f"sqlite:///{path}")

    await migrations.upgrade(engine)

    await migrations.check_schema(engine)
    await engine.dispose()


async def test_a_change_that_leaves_rows_behind_is_refused(tmp_path: Path) -> None:
    """Foreign keys are off on SQLite while the schema changes, and checked before the commit."""
    engine = database.create_engine(f"sqlite:///{tmp_path / 'zotify.db'}")
    await migrations.upgrade(engine)
    with pytest.raises(errors.ConstraintViolated, match="playlist_tracks refer to none of"):
        async with database_for(engine.dialect).changing_schema(engine) as connection:
            await connection.execute(
                text(
                    "INSERT INTO playlist_tracks (playlist_id, position, track_id) VALUES (1, 1, 1)"
                )
            )
    async with engine.connect() as connection:
        assert not await connection.scalar(text("SELECT count(*) FROM playlist_tracks"))
    await engine.dispose()
