"""The schema: what plain SQL can insert, what it cannot, and who may create it when."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.support.factories import (
    EPOCH,
    GOOD,
    Sessions,
    add_job,
    add_jobs,
    add_playlist,
    add_token,
    all_rows,
    new_job,
    stored_job,
    token_data,
)
from tests.support.schema import description_of
from tests.support.secrets import KEYRING
from zotify_async_crud import crud, database, migrations
from zotify_async_crud.crud._diff import GAP
from zotify_async_crud.errors import SchemaMismatch
from zotify_async_crud.models import Base

# what plain SQL can and cannot insert


async def test_plain_sql_can_insert_a_job(sessions: Sessions) -> None:
    """Every column with a sensible default has it in the schema."""
    async with sessions.begin() as db:
        await db.execute(text("INSERT INTO download_jobs (job_id, track_id) VALUES ('j', 't')"))
        job = await crud.get_download_job(db, "j")
    assert job is not None
    assert (job.status, job.progress, job.error_message) == ("pending", 0.0, None)
    assert job.created_at.tzinfo is not None


async def test_plain_sql_can_insert_a_token(sessions: Sessions) -> None:
    """Its id is known: there is only one."""
    async with sessions.begin() as db:
        await db.execute(
            text(
                "INSERT INTO spotify_tokens (access_token, refresh_token, expires_at)"
                " VALUES ('a', 'r', '2031-02-03 04:05:06.000000')"
            )
        )
        token = await crud.get_spotify_token(db)
    assert token is not None
    assert (token.id, token.access_token, token.refresh_token) == (1, "a", "r")


async def test_jobs_that_plain_sql_inserts_keep_their_order(sessions: Sessions) -> None:
    """The default of created_at is finer than a second, and not the transaction's beginning."""
    async with sessions.begin() as db:
        for number in range(20):
            await db.execute(
                text("INSERT INTO download_jobs (job_id, track_id) VALUES (:job_id, 't')"),
                {"job_id": f"job-{number:02}"},
            )
        created = await crud.create_download_job(db, new_job())

    async with sessions() as db:
        jobs = await crud.get_all_download_jobs(db)
    by_plain_sql = [job for job in jobs if job.job_id != created.job_id]
    moments = {job.created_at for job in by_plain_sql}
    assert [job.job_id for job in by_plain_sql] == [f"job-{number:02}" for number in range(20)][
        ::-1
    ]
    assert len(moments) > 1
    assert any(moment.microsecond for moment in moments)
    assert abs(created.created_at - max(moments)).total_seconds() < 60


LONG = "x" * 256
REFUSED = [
    "UPDATE download_jobs SET status = 'paused'",
    "UPDATE download_jobs SET status = 'PENDING'",
    "UPDATE download_jobs SET status = ''",
    "UPDATE download_jobs SET status = NULL",
    "UPDATE download_jobs SET progress = -0.1",
    "UPDATE download_jobs SET progress = 1.1",
    "UPDATE download_jobs SET progress = NULL",
    "UPDATE download_jobs SET created_at = NULL",
    "UPDATE download_jobs SET job_id = ''",
    "UPDATE download_jobs SET job_id = NULL",
    "UPDATE download_jobs SET track_id = ''",
    "UPDATE download_jobs SET track_id = NULL",
    f"UPDATE download_jobs SET track_id = '{LONG}'",
    "UPDATE download_jobs SET priority = NULL",
    "UPDATE download_jobs SET priority = 32768",
    "UPDATE download_jobs SET priority = -32769",
    f"UPDATE download_jobs SET worker_id = '{LONG}'",
    "UPDATE download_jobs SET attempt = -1",
    "UPDATE download_jobs SET attempt = NULL",
    "UPDATE download_jobs SET max_attempts = 0",
    "UPDATE download_jobs SET max_attempts = NULL",
    "UPDATE download_jobs SET is_unique = NULL",
    "UPDATE download_jobs SET cancel_requested = NULL",
    "UPDATE download_jobs SET worker_id = 'w', lease_expires_at = created_at",
    "UPDATE download_jobs SET status = 'in_progress', lease_expires_at = created_at",
    *(
        f"UPDATE download_jobs SET status = '{status}', worker_id = 'w',"
        " lease_expires_at = created_at"
        for status in ("pending", "completed", "failed", "cancelled")
    ),
    *(
        "INSERT INTO download_jobs (job_id, track_id, is_unique, status)"
        f" VALUES ('j', 't', true, '{first}'), ('k', 't', true, '{second}')"
        for first in ("pending", "in_progress")
        for second in ("pending", "in_progress")
    ),
    "INSERT INTO download_queue (id) VALUES (2)",
    "INSERT INTO download_queue (id) VALUES (1), (1)",
    "INSERT INTO download_queue (paused) VALUES (NULL)",
    "INSERT INTO download_jobs (job_id) VALUES ('j')",
    "INSERT INTO download_jobs (job_id, track_id) SELECT job_id, track_id FROM download_jobs",
    "INSERT INTO tracks (id) VALUES ('')",
    "INSERT INTO tracks (id) VALUES (NULL)",
    "INSERT INTO tracks (id) VALUES ('a')",
    f"INSERT INTO tracks (id) VALUES ('{LONG}')",
    "INSERT INTO playlists (id, name) VALUES ('', 'n')",
    "INSERT INTO playlists (id, name) VALUES (NULL, 'n')",
    "INSERT INTO playlists (id, name) VALUES ('p', 'n')",
    f"INSERT INTO playlists (id, name) VALUES ('{LONG}', 'n')",
    "INSERT INTO playlists (id) VALUES ('q')",
    "INSERT INTO playlist_tracks (playlist_id, position, track_id) VALUES ('unknown', 9, 'a')",
    "INSERT INTO playlist_tracks (playlist_id, position, track_id) VALUES ('p', 9, 'unknown')",
    "INSERT INTO playlist_tracks (playlist_id, position, track_id) VALUES ('p', 9, NULL)",
    "INSERT INTO playlist_tracks (playlist_id, position, track_id) VALUES ('p', NULL, 'a')",
    "INSERT INTO playlists (id, name, snapshot_id) VALUES ('q', 'n', '')",
    "INSERT INTO playlist_tracks (playlist_id, position, track_id) VALUES ('p', 0, 'b')",
    "UPDATE spotify_tokens SET id = 2",
    "INSERT INTO spotify_tokens SELECT 2, 'a', 'r', expires_at FROM spotify_tokens",
    "INSERT INTO spotify_tokens SELECT id, 'a', 'r', expires_at FROM spotify_tokens",
    "UPDATE spotify_tokens SET access_token = ''",
    "UPDATE spotify_tokens SET refresh_token = ''",
    "UPDATE spotify_tokens SET access_token = NULL",
    "UPDATE spotify_tokens SET refresh_token = NULL",
    "UPDATE spotify_tokens SET expires_at = NULL",
]


async def test_no_constraint_lets_bad_rows_pass(sessions: Sessions) -> None:
    """What the coroutines refuse, the schema refuses from everybody else as well."""
    await add_job(sessions)
    await add_playlist(sessions, "p", track_ids=["a", "b"])
    await add_token(sessions)
    before = await all_rows(sessions)

    accepted = []
    for statement in REFUSED:
        async with sessions() as db:
            try:
                await db.execute(text(statement))
            except DBAPIError:
                continue
            accepted.append(statement[:90])

    assert accepted == []
    assert await all_rows(sessions) == before


async def test_a_job_id_longer_than_its_column_is_refused(sessions: Sessions) -> None:
    """SQLite enforces no column's length by itself."""
    async with sessions() as db:
        with pytest.raises(DBAPIError):
            await db.execute(
                text("INSERT INTO download_jobs (job_id, track_id) VALUES (:job_id, 't')"),
                {"job_id": "x" * 37},
            )


async def test_a_progress_that_is_no_number_is_refused(sessions: Sessions) -> None:
    """PostgreSQL has NaN, greater than every number; SQLite makes NULL of it."""
    await add_job(sessions)

    async with sessions() as db:
        with pytest.raises(DBAPIError):
            await db.execute(
                text("UPDATE download_jobs SET progress = :progress"), {"progress": float("nan")}
            )


async def test_the_edges_of_every_range_are_inside(sessions: Sessions) -> None:
    """A constraint that refuses too much would be found only in production."""
    await add_job(sessions)
    async with sessions.begin() as db:
        for statement in (
            "UPDATE download_jobs SET progress = 0",
            "UPDATE download_jobs SET progress = 1",
            f"UPDATE download_jobs SET track_id = '{'ä' * 255}'",
            "UPDATE download_jobs SET track_id = 'x'",
            f"UPDATE download_jobs SET job_id = '{'x' * 36}'",
            "UPDATE download_jobs SET priority = -32768",
            "UPDATE download_jobs SET priority = 32767",
            "UPDATE download_jobs SET attempt = 2147483647, max_attempts = 2147483647",
            (
                "UPDATE download_jobs SET status = 'in_progress', worker_id = 'w',"
                " lease_expires_at = created_at"
            ),
            (
                "INSERT INTO download_jobs (job_id, track_id, is_unique, status)"
                " VALUES ('a', 't', true, 'pending'), ('b', 't', true, 'failed'),"
                " ('c', 't', true, 'failed'), ('d', 't', false, 'pending'),"
                " ('e', 't', false, 'pending'), ('f', 'u', true, 'in_progress')"
            ),
            "INSERT INTO download_queue DEFAULT VALUES",
            f"INSERT INTO tracks (id) VALUES ('x'), ('{'💾' * 255}')",
            f"INSERT INTO playlists (id, name) VALUES ('x', ''), ('{'💾' * 255}', '')",
            "INSERT INTO playlists (id, name, snapshot_id) VALUES ('y', '', 's')",
            f"INSERT INTO playlist_tracks VALUES ('x', {2**63 - 1}, 'x'), ('x', {-(2**63)}, 'x')",
        ):
            await db.execute(text(statement))


async def test_a_moment_in_a_statement_of_the_callers_own_is_taken_to_utc(
    sessions: Sessions,
) -> None:
    """The column's type does so, for whoever writes by it; a naive moment could be any."""
    zone = dt.timezone(dt.timedelta(hours=5, minutes=45))
    (job_id,) = await add_jobs(sessions, 1, first=EPOCH.astimezone(zone))

    stored = await stored_job(sessions, job_id)
    assert stored.created_at == EPOCH
    assert stored.created_at.utcoffset() == dt.timedelta(0)
    with pytest.raises(StatementError, match="time zone"):
        await add_jobs(sessions, 1, first=EPOCH.replace(tzinfo=None), prefix="naive")


@pytest.mark.parametrize(
    ("deletion", "left"),
    [
        ("DELETE FROM playlists WHERE id = 'p'", [("q", 0, "b")]),
        ("DELETE FROM tracks WHERE id = 'a'", [("p", GAP, "b"), ("q", 0, "b")]),
    ],
)
async def test_what_is_deleted_takes_its_places_in_playlists_along(
    sessions: Sessions, deletion: str, left: list[tuple[str, int, str]]
) -> None:
    """And nothing else."""
    await add_playlist(sessions, "p", track_ids=["a", "b", "a"])
    await add_playlist(sessions, "q", track_ids=["b"])

    async with sessions.begin() as db:
        await db.execute(text(deletion))

    assert (await all_rows(sessions))["playlist_tracks"] == left


async def test_ids_are_compared_byte_by_byte(sessions: Sessions) -> None:
    """Case, accents and trailing spaces make another id, and order is that of the code points."""
    names = ["A", "B", "a", "a ", "ab", "a\u0308", "b", "ä"]
    await add_playlist(sessions, track_ids=names[::-1])

    async with sessions() as db:
        found = (await db.scalars(text("SELECT id FROM tracks ORDER BY id"))).all()

    assert found == sorted(names)


# who may create it when


async def _use_everything(sessions: Sessions) -> None:
    async with sessions.begin() as db:
        job = await crud.create_download_job(db, new_job())
        assert await crud.get_next_pending_download_job(db) is job
        await crud.create_or_update_playlist(db, "p", "Focus", ["b", "a", "b"])
        await crud.create_or_update_spotify_token(db, token_data())


async def test_the_metadata_alone_makes_a_working_schema(empty_url: str) -> None:
    """An application that has its own way to create tables needs no function of ours."""
    plain = create_async_engine(empty_url)
    async with plain.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await plain.dispose()

    engine = database.create_engine(empty_url, token_keyring=KEYRING)
    await _use_everything(database.create_session_factory(engine))
    await engine.dispose()


async def test_creating_the_schema_again_changes_and_loses_nothing(
    empty_engine: AsyncEngine,
) -> None:
    """Every start of an application may do it."""
    sessions = database.create_session_factory(empty_engine)
    await migrations.upgrade(empty_engine)
    await _use_everything(sessions)
    before, rows = await description_of(empty_engine), await all_rows(sessions)

    await migrations.upgrade(empty_engine)

    assert set(before) == {*Base.metadata.tables, "zotify_alembic_version"}
    assert await description_of(empty_engine) == before
    assert await all_rows(sessions) == rows


async def test_several_processes_may_create_the_schema_at_once(empty_url: str) -> None:
    """Each has its own engine, all start at the same moment, and none fails."""
    engines = [database.create_engine(empty_url, token_keyring=KEYRING) for _ in range(8)]

    await asyncio.gather(*(migrations.upgrade(engine) for engine in engines))

    await _use_everything(database.create_session_factory(engines[-1]))
    for engine in engines:
        await engine.dispose()


async def test_a_dropped_schema_can_be_created_anew(empty_engine: AsyncEngine) -> None:
    """Dropping leaves nothing behind, and dropping nothing is no error."""
    sessions = database.create_session_factory(empty_engine)
    await migrations.downgrade(empty_engine, "base")
    await migrations.upgrade(empty_engine)
    before = await description_of(empty_engine)
    await _use_everything(sessions)

    await migrations.downgrade(empty_engine, "base")
    assert await description_of(empty_engine) == {}
    await migrations.downgrade(empty_engine, "base")
    await migrations.upgrade(empty_engine)

    assert await description_of(empty_engine) == before
    assert not any((await all_rows(sessions)).values())


# a stream is no coroutine, and reads the pages that are one
WITHOUT_TABLES = {name: GOOD[name] for name in GOOD if not name.startswith("stream_")}


@pytest.mark.parametrize("coroutine", WITHOUT_TABLES)
async def test_without_its_tables_a_coroutine_says_that_the_schema_is_missing(
    sessions: Sessions, coroutine: str
) -> None:
    """The first error of a new installation should tell its cure; a retry would not help."""
    async with sessions() as db:  # a rollback gives the tables back
        await (await db.connection()).run_sync(Base.metadata.drop_all)

        with pytest.raises(SchemaMismatch, match="check_schema") as caught:
            await getattr(crud, coroutine)(db, **WITHOUT_TABLES[coroutine])

    assert caught.value.code in {"42P01", "SQLITE_ERROR"}
    assert not caught.value.retry_safe


async def test_without_its_table_a_stream_says_that_the_schema_is_missing(
    sessions: Sessions,
) -> None:
    """When its first job is asked for."""
    async with sessions() as db:
        await (await db.connection()).run_sync(Base.metadata.drop_all)

        with pytest.raises(SchemaMismatch):
            await anext(aiter(crud.stream_download_jobs(db)))
