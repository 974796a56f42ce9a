"""Databases that are not the original's, or not only: refused with the reason, and left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.adoption.original import (
    contents,
    create_original,
    entry,
    execute,
    insert,
    job,
)
from tests.adoption.test_odd_rows import only_postgresql, only_sqlite
from tests.support.factories import Sessions, add_some_of_everything
from zotify_async_crud import errors, migrations
from zotify_async_crud.adoption import adopt
from zotify_async_crud.errors import AdoptionRefused, SchemaMismatch
from zotify_async_crud.migrations._revisions import all_revisions
from zotify_async_crud.models import Base

TRACKS: Final = "CREATE TABLE tracks (id {id}, title VARCHAR, name {name}, PRIMARY KEY ({key}))"

VALUES: Final = "user_id VARCHAR, access_token VARCHAR, refresh_token VARCHAR"


async def refusal(engine: AsyncEngine) -> str:
    """Return why the database is refused; it must be as it was before."""
    before = await contents(engine)
    with pytest.raises(AdoptionRefused) as caught:
        await adopt(engine)
    assert await contents(engine) == before
    return caught.value.reason


async def test_an_empty_database_is_refused(empty_engine: AsyncEngine) -> None:
    """The URL may be wrong: to say that nothing was to do would hide it."""
    assert await refusal(empty_engine) == "it has no table of the original Zotify API"


async def test_tables_with_our_names_are_not_ours_by_that(empty_engine: AsyncEngine) -> None:
    """Without a revision they must be those of this version, as the metadata makes them."""
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await execute(empty_engine, "ALTER TABLE tracks DROP COLUMN album")

    assert await refusal(empty_engine) == (
        "it has no table playlist_track_association, and so is not the original Zotify API's"
    )


async def test_a_table_of_the_original_alone_is_not_it(empty_engine: AsyncEngine) -> None:
    """Others have tracks, too."""
    await execute(empty_engine, TRACKS.format(id="VARCHAR", name="VARCHAR", key="id"))

    assert await refusal(empty_engine) == (
        "it has no table download_jobs, and so is not the original Zotify API's"
    )


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (
            "id INTEGER PRIMARY KEY, owner VARCHAR",
            "spotify_tokens has no column user_id, as the original Zotify API's has",
        ),
        (
            f"id VARCHAR PRIMARY KEY, {VALUES}, expires_at TIMESTAMP",
            "spotify_tokens.id is not of the original Zotify API's type",
        ),
        (
            f"id INTEGER PRIMARY KEY, {VALUES}, expires_at INTEGER",
            "spotify_tokens.expires_at is not of the original Zotify API's type",
        ),
        (
            f"id INTEGER, {VALUES} PRIMARY KEY, expires_at TIMESTAMP",
            "the primary key of spotify_tokens is not id",
        ),
    ],
)
async def test_a_table_of_the_same_name_is_not_enough(
    empty_engine: AsyncEngine, columns: str, reason: str
) -> None:
    """Its columns, their types and its key must be the original's."""
    await create_original(empty_engine)
    table = f"CREATE TABLE spotify_tokens ({columns})"
    await execute(empty_engine, "DROP TABLE spotify_tokens", table)

    assert await refusal(empty_engine) == reason


async def test_a_column_that_is_not_known_and_holds_data_is_refused(
    empty_engine: AsyncEngine,
) -> None:
    """It would be lost; whoever added it knows where it belongs."""
    await create_original(empty_engine)
    await execute(empty_engine, "ALTER TABLE tracks ADD COLUMN path VARCHAR")
    await insert(empty_engine, "tracks", {"id": "a", "path": None}, {"id": "b", "path": "/music"})

    assert await refusal(empty_engine) == (
        "tracks.path holds data that has no place here: move that elsewhere before"
    )


async def test_a_column_that_holds_nothing_is_dropped(empty_engine: AsyncEngine) -> None:
    """Nothing is lost by it, and the report tells."""
    await create_original(empty_engine)
    await execute(empty_engine, "ALTER TABLE tracks ADD COLUMN path VARCHAR")
    await insert(empty_engine, "tracks", {"id": "a", "path": None})

    report = await adopt(empty_engine)

    assert report.notes == ("tracks.path has no place here, and is dropped",)


async def test_when_a_track_was_made_is_dropped(empty_engine: AsyncEngine) -> None:
    """One version of the original had the columns, and none has ever read them."""
    await create_original(empty_engine, "2025-09-03")
    await insert(empty_engine, "tracks", {"id": "a"})

    report = await adopt(empty_engine)

    assert report.notes == (
        "tracks.created_at has no place here, and is dropped",
        "tracks.updated_at has no place here, and is dropped",
    )


@pytest.mark.parametrize("table", ["playlist_tracks", "download_queue"])
async def test_tables_of_both_are_refused(empty_engine: AsyncEngine, table: str) -> None:
    """Somebody has begun to migrate by himself, or it is another's table."""
    await create_original(empty_engine)
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables[table].create)

    assert await refusal(empty_engine) == (
        f"it is half-migrated: {table} stands beside the original's tables"
    )


async def test_a_table_of_ours_in_the_place_of_theirs_is_refused(
    empty_engine: AsyncEngine,
) -> None:
    """It has all that the original's has, and more."""
    await create_original(empty_engine)
    await execute(empty_engine, "DROP TABLE download_jobs")
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.tables["download_jobs"].create)

    reason = "it is half-migrated: download_jobs has the column attempt already"
    assert await refusal(empty_engine) == reason


async def test_rows_of_the_original_beside_our_tables_are_refused(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """It was started again after the adoption, and has gone on; without rows nothing is lost."""
    await add_some_of_everything(sessions)
    association = "CREATE TABLE playlist_track_association (playlist_id VARCHAR, track_id VARCHAR)"
    await execute(engine, association)
    try:
        assert (await adopt(engine)).nothing_to_do

        await insert(engine, "playlist_track_association", entry("p", "a"))

        assert await refusal(engine) == (
            "it is half-migrated: playlist_track_association has rows beside our tables"
        )
    finally:
        await execute(engine, "DROP TABLE playlist_track_association")


async def stamp(engine: AsyncEngine, revision: str) -> None:
    """Write a revision into a database, whatever tables there are."""
    table = migrations.VERSION_TABLE
    create = f"CREATE TABLE {table} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
    await execute(engine, create, f"INSERT INTO {table} VALUES ('{revision}')")


@pytest.mark.parametrize("revision", all_revisions())
async def test_a_revision_beside_tables_of_the_original_is_refused(
    empty_engine: AsyncEngine, revision: str
) -> None:
    """Whoever has written it did not migrate what the tables hold."""
    await create_original(empty_engine)
    await insert(empty_engine, "download_jobs", job())
    await stamp(empty_engine, revision)

    assert await refusal(empty_engine) == (
        f"it is half-migrated: revision {revision} is written, and the tables are not of it"
        " (add_table download_queue)"
    )


@pytest.mark.parametrize("revision", all_revisions())
@pytest.mark.parametrize("table", ["download_jobs", "playlists", "tracks"])
async def test_a_table_of_the_original_among_ours_is_refused(
    empty_engine: AsyncEngine, table: str, revision: str
) -> None:
    """Whatever revision ours have, and though the columns may be the same."""
    await create_original(empty_engine)
    dropped = ["playlist_track_association", "download_jobs", "playlists", "tracks"]
    dropped.remove(table)
    await execute(empty_engine, *(f"DROP TABLE {each}" for each in [*dropped, "spotify_tokens"]))
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await stamp(empty_engine, revision)

    reason = await refusal(empty_engine)

    assert reason.startswith(f"it is half-migrated: revision {revision} is written, and the tables")
    assert f" {table}." in reason


async def test_tables_of_a_newer_version_are_told(engine: AsyncEngine) -> None:
    """What they hold is not known to this one."""
    table = migrations.VERSION_TABLE
    await execute(engine, f"UPDATE {table} SET version_num = '9999'")
    try:
        with pytest.raises(SchemaMismatch, match="install a newer zotify-async-crud"):
            await adopt(engine, dry_run=True)
    finally:
        await execute(engine, f"UPDATE {table} SET version_num = '{migrations.newest_revision()}'")


VIEWS: Final[Sequence[tuple[str, dict[str, str]]]] = [
    (
        "CREATE VIEW waiting AS SELECT job_id FROM download_jobs",
        {"postgresql": "rule _RETURN on view waiting", "sqlite": "view waiting"},
    ),
    (
        "CREATE VIEW places AS SELECT track_id FROM playlist_track_association",
        {"postgresql": "rule _RETURN on view places", "sqlite": "view places"},
    ),
]
TRIGGERS: Final = {
    "postgresql": (
        "CREATE TRIGGER noted BEFORE UPDATE ON download_jobs"
        " FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ),
    "sqlite": (
        "CREATE TRIGGER noted AFTER UPDATE ON download_jobs"
        " BEGIN INSERT INTO job_logs VALUES ('1', 'j', 's', 0, NULL, 0, NULL); END"
    ),
}


@pytest.mark.parametrize(("view", "names"), VIEWS)
async def test_views_on_the_tables_are_refused(
    empty_engine: AsyncEngine, view: str, names: dict[str, str]
) -> None:
    """They cannot be kept, and whoever made them knows what they are for."""
    await create_original(empty_engine)
    await execute(empty_engine, view, "CREATE VIEW people AS SELECT username FROM users")

    name = names[empty_engine.dialect.name]
    assert await refusal(empty_engine) == f"{name} is built on its tables: drop that before"


async def test_triggers_on_the_tables_are_refused(empty_engine: AsyncEngine) -> None:
    """They would be gone."""
    await create_original(empty_engine)
    await execute(empty_engine, TRIGGERS[empty_engine.dialect.name])
    await insert(empty_engine, "download_jobs", job())

    assert (await refusal(empty_engine)).startswith("trigger noted")


@only_postgresql
@pytest.mark.filterwarnings("ignore:Did not recognize type")
@pytest.mark.parametrize(
    ("statement", "name"),
    [
        (
            "CREATE POLICY mine ON download_jobs USING (true)",
            "policy mine on table download_jobs",
        ),
        (
            "CREATE PUBLICATION mine FOR TABLE download_jobs",
            "publication of table download_jobs in publication mine",
        ),
        (
            "CREATE RULE mine AS ON DELETE TO download_jobs DO ALSO NOTHING",
            "rule mine on table download_jobs",
        ),
        (
            "CREATE FUNCTION mine(tracks) RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
            "function mine(tracks)",
        ),
        ("CREATE TABLE mine (found tracks)", "column found of table mine"),
        ("CREATE TABLE mine (found tracks[])", "column found of table mine"),
        (
            "CREATE TABLE mine (id integer DEFAULT nextval('spotify_tokens_id_seq'))",
            "default value for column id of table mine",
        ),
    ],
)
async def test_what_would_be_gone_or_be_in_the_way_is_refused(
    empty_engine: AsyncEngine, statement: str, name: str
) -> None:
    """Whether the database would drop it without a word, or refuse to drop the table."""
    await create_original(empty_engine)
    await execute(empty_engine, statement)

    assert await refusal(empty_engine) == f"{name} is built on its tables: drop that before"


@only_sqlite
async def test_a_table_without_rowids_is_refused(empty_engine: AsyncEngine) -> None:
    """It has its rows in the order of its key, and so no playlist has an order of its own."""
    await create_original(empty_engine)
    await execute(
        empty_engine,
        "DROP TABLE playlist_track_association",
        "CREATE TABLE playlist_track_association (playlist_id VARCHAR, track_id VARCHAR,"
        " PRIMARY KEY (playlist_id, track_id)) without  rowid",
    )
    await execute(empty_engine, "CREATE TABLE mine (id INTEGER PRIMARY KEY) WITHOUT ROWID")

    assert await refusal(empty_engine) == (
        "playlist_track_association does not keep its rows in the order in which they came"
    )


async def test_a_refusal_is_one_line_that_tells_all(empty_engine: AsyncEngine) -> None:
    """As a command line shows it."""
    with pytest.raises(errors.ZotifyCrudError) as caught:
        await adopt(empty_engine, dry_run=True)

    assert str(caught.value) == (
        "the database cannot be adopted: it has no table of the original Zotify API"
    )
    assert await migrations.current_revision(empty_engine) is None
