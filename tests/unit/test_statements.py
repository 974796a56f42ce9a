"""Statements, as SQL: what only the text can show, on each database."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

import pytest
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.dialects.sqlite import aiosqlite
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql import Executable
from sqlalchemy.sql.compiler import SQLCompiler

from zotify_async_crud._dialects import Database, database_for
from zotify_async_crud._statements import download_jobs, playlists, spotify_tokens
from zotify_async_crud.models import Base
from zotify_async_crud.schemas import DownloadJobStatus

POSTGRESQL: Final[Dialect] = asyncpg.dialect()  # type: ignore[no-untyped-call]
SQLITE: Final[Dialect] = aiosqlite.dialect()
BOTH: Final = [pytest.param(POSTGRESQL, id="postgresql"), pytest.param(SQLITE, id="sqlite")]
MOMENT: Final = dt.datetime(2024, 5, 6, tzinfo=dt.UTC)


def _compiled(statement: Executable, dialect: Dialect) -> SQLCompiler:
    compiled = statement.compile(  # type: ignore[attr-defined]
        dialect=dialect, compile_kwargs={"render_postcompile": True}
    )
    assert isinstance(compiled, SQLCompiler)
    return compiled


def _sql(statement: Executable, dialect: Dialect) -> str:
    """Return the text of *statement*, on one line."""
    return re.sub(r"\s+", " ", str(_compiled(statement, dialect)))


def _parameters(statement: Executable, dialect: Dialect) -> list[object]:
    return list(_compiled(statement, dialect).params.values())


@pytest.fixture(params=BOTH)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Each database's way to write SQL."""
    chosen: Dialect = request.param
    return chosen


@pytest.fixture
def db(dialect: Dialect) -> Database:
    """What differs on the database of ``dialect``."""
    return database_for(dialect)


def test_postgresql_picks_up_with_a_row_lock_that_skips_those_of_others() -> None:
    """In the order of the partial index, with nothing that a generic plan could not see."""
    pickup = download_jobs.get_next_pending_download_job(database_for(POSTGRESQL))

    assert _sql(pickup, POSTGRESQL).endswith(
        "FROM download_jobs WHERE download_jobs.status = 'pending'"
        " ORDER BY download_jobs.created_at, download_jobs.job_id"
        " LIMIT 1 FOR UPDATE SKIP LOCKED"
    )
    assert _parameters(pickup, POSTGRESQL) == []


def test_sqlite_picks_up_with_a_write_that_changes_nothing() -> None:
    """Only a write makes every driver begin a transaction and take the file's lock."""
    pickup = _sql(download_jobs.get_next_pending_download_job(database_for(SQLITE)), SQLITE)

    assert pickup.startswith(
        "UPDATE download_jobs SET track_id=download_jobs.track_id"
        " WHERE download_jobs.job_id = (SELECT download_jobs.job_id"
    )
    assert "WHERE download_jobs.status = 'pending' ORDER BY" in pickup
    assert "RETURNING job_id, track_id, status, progress, created_at, error_message" in pickup


@pytest.mark.parametrize("status", list(DownloadJobStatus))
def test_a_status_is_compared_with_a_literal(dialect: Dialect, status: DownloadJobStatus) -> None:
    """Behind a bound parameter no plan for all values can use a partial index."""
    page = download_jobs.list_download_jobs(status, 10, None)

    assert f"WHERE download_jobs.status = '{status.value}' ORDER BY" in _sql(page, dialect)
    assert status not in _parameters(page, dialect)


def test_one_statement_text_serves_every_status_in_the_cache() -> None:
    """A literal is put in at execution, so SQLAlchemy compiles the query once."""
    keys = [
        download_jobs.list_download_jobs(status, 10, None)._generate_cache_key()  # noqa: SLF001 - it has no public name
        for status in DownloadJobStatus
    ]

    assert keys[0] is not None
    assert [key.key for key in keys if key is not None] == [keys[0].key] * len(DownloadJobStatus)


def test_a_retry_looks_for_failed_jobs_by_a_literal(dialect: Dialect) -> None:
    """The queue may be long, the failed jobs few."""
    retry = download_jobs.retry_failed_download_jobs()

    assert "WHERE download_jobs.status = 'failed' RETURNING job_id" in _sql(retry, dialect).replace(
        "download_jobs.job_id", "job_id"
    )


def test_a_page_begins_after_a_key_and_never_after_a_count(dialect: Dialect) -> None:
    """One comparison of both columns, which is one range of the index."""
    page = _sql(download_jobs.list_download_jobs(None, 10, (MOMENT, "key")), dialect)

    assert "WHERE (download_jobs.created_at, download_jobs.job_id) < (" in page
    assert "ORDER BY download_jobs.created_at DESC, download_jobs.job_id DESC" in page
    # SQLAlchemy writes OFFSET for SQLite always; what it skips must be nothing
    parameters = _parameters(download_jobs.list_download_jobs(None, 10, (MOMENT, "key")), dialect)
    assert sorted(map(str, parameters)) in (
        sorted(["10", str(MOMENT), "key"]),
        sorted(["10", str(MOMENT), "key", "0"]),
    )


def test_an_update_names_progress_only_when_it_is_given(dialect: Dialect) -> None:
    """What is not named keeps its value, whatever that is by now."""
    without = download_jobs.update_download_job_status("j", DownloadJobStatus.FAILED, None, None)
    with_zero = download_jobs.update_download_job_status("j", DownloadJobStatus.FAILED, None, 0.0)

    assert "progress=" not in _sql(without, dialect)
    assert "progress=" in _sql(with_zero, dialect)


@pytest.mark.parametrize("count", [0, 1, 2, 50_000])
def test_a_list_is_one_parameter_however_long_it_is(
    dialect: Dialect, db: Database, count: int
) -> None:
    """The text is the same for every length, and no limit of parameters is near."""
    track_ids = [f"track-{number}" for number in range(count)]
    tracks, entries = (
        playlists.create_missing_tracks(db, track_ids),
        playlists.add_entries(db, "p", track_ids),
    )

    assert len(_parameters(tracks, dialect)) <= 2
    assert len(_parameters(entries, dialect)) <= 3
    assert _sql(tracks, dialect) == _sql(playlists.create_missing_tracks(db, ["x"]), dialect)
    assert _sql(entries, dialect) == _sql(playlists.add_entries(db, "p", ["x"]), dialect)


def test_tracks_are_inserted_in_the_order_of_the_list(dialect: Dialect, db: Database) -> None:
    """The order of the locks is what keeps two syncs from a deadlock."""
    tracks = _sql(playlists.create_missing_tracks(db, ["a", "b"]), dialect)

    assert re.search(r"ORDER BY \w+\.\S+( - \S+)? ON CONFLICT \(id\) DO NOTHING", tracks)


def test_a_track_that_is_there_only_gets_a_name_that_it_lacks(
    dialect: Dialect, db: Database
) -> None:
    """The name that is known goes first."""
    upsert = _sql(playlists.get_or_create_track(db, "t", "Name"), dialect)

    assert "ON CONFLICT (id) DO UPDATE SET name = coalesce(tracks.name, excluded.name)" in upsert


def test_a_refresh_does_not_touch_the_refresh_token(dialect: Dialect) -> None:
    """Not even by writing the value that was read: another may have come meanwhile."""
    refresh = _sql(spotify_tokens.refresh_spotify_token("a", MOMENT), dialect)

    assert refresh.startswith("UPDATE spotify_tokens SET access_token=")
    assert "refresh_token=" not in refresh


def test_a_login_overwrites_the_one_row(dialect: Dialect, db: Database) -> None:
    """An upsert by the primary key, which is always 1."""
    login = spotify_tokens.create_or_update_spotify_token(db, "a", "r", MOMENT)

    assert "ON CONFLICT (id) DO UPDATE SET access_token = excluded.access_token" in _sql(
        login, dialect
    )
    assert 1 in _parameters(login, dialect)


def test_the_secrets_of_a_login_are_parameters_and_never_text(
    dialect: Dialect, db: Database
) -> None:
    """What is in the text of a statement ends up in the database's own logs."""
    login = spotify_tokens.create_or_update_spotify_token(db, "canary-a", "canary-r", MOMENT)

    assert "canary" not in _sql(login, dialect)


def test_clearing_deletes_places_before_what_they_point_to(dialect: Dialect) -> None:
    """Or each deleted row would search for its places by itself."""
    assert [_sql(each, dialect) for each in playlists.clear_all_playlists_and_tracks()] == [
        "DELETE FROM playlist_tracks",
        "DELETE FROM playlists",
        "DELETE FROM tracks",
    ]


def test_ids_do_not_sort_by_the_locale_of_a_server() -> None:
    """Pages and pickups order by them, on every PostgreSQL as on SQLite."""
    tables = [
        str(CreateTable(each).compile(dialect=POSTGRESQL)) for each in Base.metadata.sorted_tables
    ]
    columns = [line for table in tables for line in table.splitlines() if "id VARCHAR" in line]

    assert len(columns) == 6
    assert [line for line in columns if 'COLLATE "C"' not in line] == []
