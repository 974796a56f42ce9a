"""Each revision: what it makes of the schema, up and down, and that it keeps what is stored."""

from __future__ import annotations

import itertools
import warnings
from typing import Any, Final

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Index, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.migrations.recorded import recorded, written
from tests.support.schema import description_of
from zotify_async_crud import migrations
from zotify_async_crud._dialects.types import has_index
from zotify_async_crud.migrations._revisions import VERSION_TABLE, all_revisions
from zotify_async_crud.models import Base

REVISIONS: Final = all_revisions()

# as plain SQL would insert them at every revision
ROWS: Final = {
    "tracks": "INSERT INTO tracks (id, name) VALUES ('t1', 'A name'), ('t2', NULL)",
    "playlists": "INSERT INTO playlists (id, name, snapshot_id) VALUES ('p', 'Focus', 'AAAB')",
    "playlist_tracks": "INSERT INTO playlist_tracks (playlist_id, position, track_id)"
    " VALUES ('p', -5, 't2'), ('p', 0, 't1'), ('p', 7, 't2')",
    "download_jobs": "INSERT INTO download_jobs (job_id, track_id, status, attempt, worker_id)"
    " VALUES ('1', 't1', 'pending', 0, NULL), ('2', 't1', 'in_progress', 3, 'w'),"
    " ('3', 't2', 'completed', 1, 'w'), ('4', 't2', 'failed', 5, NULL),"
    " ('5', 't2', 'cancelled', 0, NULL)",
    "download_queue": "INSERT INTO download_queue (paused) VALUES (true)",
    "spotify_tokens": "INSERT INTO spotify_tokens (access_token, refresh_token, expires_at)"
    " VALUES ('made-up', 'made-up too', '2026-01-01 12:00:00.123456')",
}


async def fill(engine: AsyncEngine) -> None:
    """Store something in every table."""
    async with engine.begin() as connection:
        for statement in ROWS.values():
            await connection.execute(text(statement))


async def stored(engine: AsyncEngine) -> dict[str, list[tuple[Any, ...]]]:
    """Return all that ``fill`` has stored, as far as the first revision has room for it."""
    columns = {
        "tracks": "*",
        "playlists": "*",
        "playlist_tracks": "*",
        "download_jobs": "*",
        "download_queue": "*",
        "spotify_tokens": "id, access_token, refresh_token, expires_at",
    }
    assert columns.keys() == ROWS.keys()
    async with engine.connect() as connection:
        return {
            table: [
                tuple(row)
                for row in await connection.execute(
                    text(f"SELECT {names} FROM {table} ORDER BY 1, 2")
                )
            ]
            for table, names in columns.items()
        }


def test_every_table_is_filled() -> None:
    """A table that comes later must be kept, too."""
    assert ROWS.keys() == Base.metadata.tables.keys()


@pytest.mark.parametrize("revision", REVISIONS)
async def test_a_revision_makes_what_it_was_written_for(
    empty_engine: AsyncEngine, revision: str
) -> None:
    """It may have run already, so that nothing may change it any more."""
    await migrations.upgrade(empty_engine, revision)

    assert written(await description_of(empty_engine)) == recorded(empty_engine, revision)


@pytest.mark.parametrize(("before", "revision"), [*itertools.pairwise(REVISIONS)])
async def test_a_revision_goes_up_down_and_up_with_what_is_stored(
    empty_engine: AsyncEngine, before: str, revision: str
) -> None:
    """Nothing is lost that both have room for, and down is as if it had never been up."""
    await migrations.upgrade(empty_engine, before)
    await fill(empty_engine)
    kept = await stored(empty_engine)
    assert all(kept.values())

    for change, to in (
        (migrations.upgrade, revision),
        (migrations.downgrade, before),
        (migrations.upgrade, revision),
    ):
        await change(empty_engine, to)
        assert await migrations.current_revision(empty_engine) == to
        assert written(await description_of(empty_engine)) == recorded(empty_engine, to)
        assert await stored(empty_engine) == kept


async def test_the_first_revision_goes_down_to_nothing_and_up_again(
    empty_engine: AsyncEngine,
) -> None:
    """Also from the newest, and with rows in every table."""
    await migrations.upgrade(empty_engine)
    await fill(empty_engine)

    await migrations.downgrade(empty_engine, "base")

    assert await description_of(empty_engine) == {}
    assert await migrations.current_revision(empty_engine) is None
    await migrations.upgrade(empty_engine)
    assert not any((await stored(empty_engine)).values())


async def test_revisions_and_models_make_the_same_schema(empty_engine: AsyncEngine) -> None:
    """Down to each check, default and setting of a table."""
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    made_by_models = await description_of(empty_engine)
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)

    await migrations.upgrade(empty_engine)

    made_by_revisions = await description_of(empty_engine)
    assert made_by_revisions.pop(VERSION_TABLE)
    assert made_by_revisions == made_by_models


async def test_alembic_finds_no_difference_between_schema_and_models(engine: AsyncEngine) -> None:
    """The next revision that it writes holds only what is new."""
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []


def _differences(connection: Connection) -> list[Any]:
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "include_name": lambda name, *_: name != VERSION_TABLE,
        "include_object": lambda item, *_: (
            not isinstance(item, Index) or has_index(connection.dialect, item)
        ),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*expression-based index")  # on SQLite
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, Base.metadata))


async def test_a_new_token_column_has_a_value_for_a_token_that_was_there(
    empty_engine: AsyncEngine,
) -> None:
    """A token of before is valid until it expires, and can be refreshed then."""
    await migrations.upgrade(empty_engine, "0001")
    await fill(empty_engine)

    await migrations.upgrade(empty_engine)

    async with empty_engine.connect() as connection:
        names = "login_id, version, lease_version, failures, needs_login, scope"
        row = (await connection.execute(text(f"SELECT {names} FROM spotify_tokens"))).one()
    assert tuple(row) == ("", 1, 1, 0, False, None)
