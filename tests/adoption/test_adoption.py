"""What is taken over from the original: jobs, tracks, playlists and the newest token."""

from __future__ import annotations

import datetime as dt
import uuid
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.adoption.original import (
    LAST,
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
from tests.support.databases import new_database
from tests.support.factories import Sessions, all_rows, playlist_data, stored_row, stored_track_ids
from tests.support.faults import only_postgresql
from tests.support.pools import an_engine, drain, statuses
from tests.support.schema import description_of
from tests.support.secrets import KEYRING
from zotify_async_crud import crud, database, encryption, migrations, schemas
from zotify_async_crud.adoption import AdoptionReport, adopt
from zotify_async_crud.errors import AdoptionRefused
from zotify_async_crud.migrations._revisions import all_revisions
from zotify_async_crud.models import Base

JOBS: Final = [
    job("1", status="pending"),
    job("2", status="in_progress", progress=0.5),
    job("3", status="completed", progress=1.0),
    job("4", status="failed", progress=0.25),
]
UTC: Final = dt.UTC


@pytest.fixture
def sessions(empty_engine: AsyncEngine) -> Sessions:
    """Sessions on the database that is adopted."""
    return database.create_session_factory(empty_engine)


async def create_some_of_everything(engine: AsyncEngine, version: Version = LAST) -> None:
    """Make the original's database, with a few rows in each table."""
    await create_original(engine, version)
    await insert(engine, "users", {"id": "u", "username": "n", "hashed_password": "h", "role": "r"})
    await insert(engine, "download_jobs", *JOBS)
    await execute(engine, "UPDATE download_jobs SET error_message = 'no route' WHERE job_id = '4'")
    await insert(engine, "tracks", *({"id": key, "name": f"Song {key}"} for key in "abc"))
    await insert(engine, "playlists", {"id": "p", "name": "Focus"}, {"id": "q", "name": "Empty"})
    await insert(engine, "playlist_track_association", *(entry("p", key) for key in "cab"))
    await insert(engine, "spotify_tokens", token())


@pytest.mark.parametrize("version", VERSIONS)
async def test_all_that_the_original_has_is_taken_over(
    empty_engine: AsyncEngine, sessions: Sessions, version: Version
) -> None:
    """Whichever of its versions made the tables."""
    await create_some_of_everything(empty_engine, version)

    report = await adopt(empty_engine)

    assert report.jobs == {"pending": 2, "completed": 1, "failed": 1}
    counts = (report.requeued, report.tracks, report.playlists, report.entries)
    assert counts == (1, 3, 2, 3)
    assert (report.token, report.left_out_tokens, report.nothing_to_do) == (True, 0, False)
    assert await stored_track_ids(sessions, "p") == ["c", "a", "b"]
    assert await stored_track_ids(sessions, "q") == []
    async with sessions() as db:
        assert await crud.get_spotify_token(db) is not None
        found = await crud.get_playlist(db, "p")
    assert found is not None
    assert [(found.name, found.tracks[0].name)] == [("Focus", "Song c")]


@pytest.mark.parametrize("version", VERSIONS)
async def test_the_tables_are_those_of_a_new_database(
    empty_engine: AsyncEngine, version: Version, tmp_path: Path, postgresql_server: str
) -> None:
    """Nothing of the original's is left in them, and they have the newest revision."""
    await create_some_of_everything(empty_engine, version)
    theirs = await description_of(empty_engine)

    await adopt(empty_engine)

    assert await migrations.current_revision(empty_engine) == migrations.newest_revision()
    await migrations.check_schema(empty_engine)
    dialect = empty_engine.dialect.name
    async with new_database(dialect, tmp_path, postgresql_server) as url, an_engine(url) as new:
        await migrations.upgrade(new)
        ours = await description_of(new)
    others = {name: theirs[name] for name in theirs.keys() - ORIGINALS}
    assert await description_of(empty_engine) == {**ours, **others}


async def test_a_job_keeps_what_is_known_of_it(
    empty_engine: AsyncEngine, sessions: Sessions
) -> None:
    """When it was finished is not, and so it counts as finished now: pruning waits from then on."""
    await create_some_of_everything(empty_engine)

    await adopt(empty_engine)

    pending, requeued, completed, failed = [
        await stored_row(sessions, row["job_id"]) for row in JOBS
    ]
    assert [row["attempt"] for row in (pending, requeued, completed, failed)] == [0] * 4
    assert (requeued["status"], requeued["progress"]) == ("pending", 0.0)
    assert requeued["created_at"] == dt.datetime(2025, 9, 1, 10, tzinfo=UTC)
    assert (failed["error_message"], failed["progress"], failed["track_id"]) == (
        "no route",
        0.25,
        "t-4",
    )
    assert completed["progress"] == 1.0
    assert completed["finished_at"] == failed["finished_at"] > completed["created_at"]
    assert (pending["finished_at"], requeued["finished_at"]) == (None, None)


async def test_a_job_with_an_id_of_the_original_is_one_to_go_on_with(
    empty_engine: AsyncEngine, sessions: Sessions
) -> None:
    """It made random UUIDs, where this library's own are in the order of time."""
    job_ids = [str(uuid.uuid4()) for _ in range(20)]
    await create_original(empty_engine)
    await insert(empty_engine, "download_jobs", *map(job, job_ids))

    await adopt(empty_engine)

    async with sessions.begin() as db:
        added = await crud.create_download_jobs(db, ["new"])
    await drain(sessions)
    for job_id in [*job_ids, *added]:
        assert (await stored_row(sessions, job_id))["status"] == "completed"


async def test_adopting_twice_changes_nothing(
    empty_engine: AsyncEngine, sessions: Sessions
) -> None:
    """A script may do it at every start; what has happened since stays."""
    await create_some_of_everything(empty_engine)
    await adopt(empty_engine)
    await drain(sessions)
    before = await contents(empty_engine)

    assert await adopt(empty_engine) == AdoptionReport(nothing_to_do=True)
    assert await adopt(empty_engine, dry_run=True) == AdoptionReport(nothing_to_do=True)

    assert await contents(empty_engine) == before


async def test_a_dry_run_tells_the_same_and_writes_nothing(empty_engine: AsyncEngine) -> None:
    """It does everything, so that what would fail does so in time, and rolls it back."""
    await create_some_of_everything(empty_engine)
    before = await contents(empty_engine)

    expected = await adopt(empty_engine, dry_run=True)

    assert await contents(empty_engine) == before
    assert await adopt(empty_engine) == expected


async def test_tables_of_this_library_are_left_alone(engine: AsyncEngine) -> None:
    """There is nothing to take over."""
    assert await adopt(engine) == AdoptionReport(nothing_to_do=True)


@pytest.mark.parametrize("revision", all_revisions())
async def test_tables_of_each_revision_are_left_alone(
    empty_engine: AsyncEngine, revision: str
) -> None:
    """To upgrade them is for an upgrade, and an index that somebody added is no matter of ours."""
    await migrations.upgrade(empty_engine, revision)
    await execute(empty_engine, "CREATE INDEX mine ON tracks (name)")

    assert await adopt(empty_engine) == AdoptionReport(nothing_to_do=True)

    assert await migrations.current_revision(empty_engine) == revision


async def test_tables_that_the_metadata_made_are_left_alone(empty_engine: AsyncEngine) -> None:
    """They have no revision yet; to give them one is for an upgrade."""
    async with empty_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)

    assert await adopt(empty_engine) == AdoptionReport(nothing_to_do=True)

    assert await migrations.current_revision(empty_engine) is None


async def test_ten_thousand_jobs_are_worked_off_by_a_pool(
    empty_engine: AsyncEngine, sessions: Sessions
) -> None:
    """All that waited or ran, and nothing else; several jobs may be for one track."""
    states = ["pending", "in_progress", "completed", "failed"]
    jobs = [
        job(f"{number:036}", status=states[number % 4], track_id=f"t{number % 100}")
        for number in range(10_000)
    ]
    await create_original(empty_engine)
    await insert(empty_engine, "download_jobs", *jobs)

    report = await adopt(empty_engine)

    assert report.jobs == {"pending": 5_000, "completed": 2_500, "failed": 2_500}
    assert report.requeued == 2_500
    counts = await drain(sessions, concurrency=50)
    assert counts.completed == 5_000
    assert await statuses(sessions) == {"completed": 7_500, "failed": 2_500}


async def test_a_track_may_stand_in_a_playlist_twice(
    empty_engine: AsyncEngine, sessions: Sessions
) -> None:
    """The first version's association had no key; its order is that of insertion, and is told."""
    await create_some_of_everything(empty_engine, "2025-08-11")
    await insert(empty_engine, "playlist_track_association", *map(entry, "qpqp", "aaba"))

    report = await adopt(empty_engine)

    assert await stored_track_ids(sessions, "p") == ["c", "a", "b", "a", "a"]
    assert await stored_track_ids(sessions, "q") == ["a", "b"]
    assert (
        "playlist_track_association has no order: tracks come as they were stored" in report.notes
    )


async def test_an_adopted_playlist_is_as_good_as_a_synchronised_one(
    empty_engine: AsyncEngine, sessions: Sessions
) -> None:
    """Its places are as far apart, so that others can come between; a sync has nothing to do."""
    await create_some_of_everything(empty_engine)
    await adopt(empty_engine)
    adopted = (await all_rows(sessions))["playlist_tracks"]

    async with sessions.begin() as db:
        await crud.create_or_update_playlist(db, "new", "New", ["c", "a", "b"])
        result = await crud.sync_playlists(db, [playlist_data("p", ["c", "a", "b"], "Focus")])

    assert result == schemas.SyncResult(playlists_unchanged=1)
    after = (await all_rows(sessions))["playlist_tracks"]
    assert after == [("new", *place) for _, *place in adopted] + adopted


async def test_the_token_that_expires_last_is_kept(
    empty_engine: AsyncEngine, sessions: Sessions
) -> None:
    """Of those that expire together, the one that was stored last; it may have expired long ago."""
    late = "2025-09-01 12:00:00"
    await create_original(empty_engine)
    tokens = token(1, expires_at=late), token(2, expires_at=late), token(3)
    await insert(empty_engine, "spotify_tokens", *tokens)

    report = await adopt(empty_engine)

    assert (report.token, report.left_out_tokens) == (True, 2)
    async with sessions() as db:
        kept = await crud.get_spotify_token(db)
    assert kept is not None
    assert (kept.id, kept.access_token, kept.refresh_token) == (1, "access-2", "refresh-2")
    assert kept.expires_at == dt.datetime(2025, 9, 1, 12, tzinfo=UTC)


async def test_whose_token_it_was_is_told(empty_engine: AsyncEngine) -> None:
    """The original could note it, and never did by itself."""
    user = {"id": "u", "username": "n", "hashed_password": "h", "role": "r"}
    await create_original(empty_engine)
    await insert(empty_engine, "users", user)
    await insert(empty_engine, "spotify_tokens", token(user_id="u"))

    report = await adopt(empty_engine)

    told = "spotify_tokens.user_id has no place here: the token is everybody's"
    assert f"{told} (rows: 1, the first: 'u')" in report.notes


async def test_without_a_token_nobody_is_logged_in(
    empty_engine: AsyncEngine, sessions: Sessions
) -> None:
    """Nor is there anything else to take over, which is no error."""
    await create_original(empty_engine)

    assert await adopt(empty_engine) == AdoptionReport()

    async with sessions() as db:
        assert await crud.get_spotify_token(db) is None


async def test_the_token_is_encrypted_by_the_key_ring(
    empty_engine: AsyncEngine, empty_url: str
) -> None:
    """Without one it stays in clear, and the warning says so."""
    await create_some_of_everything(empty_engine)
    plain = create_async_engine(empty_url)
    with pytest.warns(encryption.TokenInClear):
        await adopt(plain, dry_run=True)
    await plain.dispose()

    await adopt(empty_engine)

    async with empty_engine.connect() as connection:
        stored = await connection.scalar(text("SELECT refresh_token FROM spotify_tokens"))
    assert encryption.key_id(str(stored)) == KEYRING.current_id


async def test_an_engine_that_sqlalchemy_made_will_do(empty_url: str) -> None:
    """Also where the driver would begin a transaction late."""
    plain = create_async_engine(empty_url)
    encryption.use_keyring(plain, KEYRING)
    await create_some_of_everything(plain)

    await adopt(plain, dry_run=True)
    report = await adopt(plain)

    assert report.jobs == {"pending": 2, "completed": 1, "failed": 1}
    await plain.dispose()


@only_postgresql
async def test_a_schema_in_which_nothing_is_to_be_adopted_is_not_made(url: str) -> None:
    """Whoever has mistyped its name leaves nothing behind."""
    engine = database.create_engine(url, schema="mistyped")

    for dry_run in (True, False):
        with pytest.raises(AdoptionRefused):
            await adopt(engine, dry_run=dry_run)

    async with engine.connect() as connection:
        found = await connection.scalar(text("SELECT to_regnamespace('mistyped')"))
    assert found is None
    await engine.dispose()


@only_postgresql
async def test_the_original_may_have_a_schema_of_its_own(url: str) -> None:
    """What else is in the database has its own tables of these names."""
    admin = database.create_engine(url)
    await execute(admin, "CREATE SCHEMA theirs")
    engine = database.create_engine(url, schema="theirs", token_keyring=KEYRING)
    try:
        await create_some_of_everything(engine)
        before = await contents(admin)

        await adopt(engine)

        assert await contents(admin) == before
        assert await statuses(database.create_session_factory(engine)) == {
            "pending": 2,
            "completed": 1,
            "failed": 1,
        }
    finally:
        await engine.dispose()
        await execute(admin, "DROP SCHEMA theirs CASCADE")
        await admin.dispose()
