"""Statements, as SQL: what only the text can show, on each database."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from typing import Any, Final

import pytest
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.dialects.sqlite import aiosqlite
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql import Executable
from sqlalchemy.sql.compiler import ExpandedState

from tests.support.factories import completed, failed, new_claim, new_job
from zotify_async_crud._dialects import Database, database_for
from zotify_async_crud._statements import claims as claims_sql
from zotify_async_crud._statements import (
    download_jobs,
    download_queue,
    playlists,
    spotify_tokens,
    tracks,
)
from zotify_async_crud._statements._given import Query
from zotify_async_crud.models import Base
from zotify_async_crud.schemas import DownloadJobStatus, SpotifyTokenData

POSTGRESQL: Final[Dialect] = asyncpg.dialect()  # type: ignore[no-untyped-call]
SQLITE: Final[Dialect] = aiosqlite.dialect()
BOTH: Final = [pytest.param(POSTGRESQL, id="postgresql"), pytest.param(SQLITE, id="sqlite")]
MOMENT: Final = dt.datetime(2024, 5, 6, tzinfo=dt.UTC)


def _expanded(query: Executable | Query, dialect: Dialect) -> ExpandedState:
    statement, parameters = query if isinstance(query, Query) else (query, {})
    compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
    state: ExpandedState = compiled.construct_expanded_state(parameters)
    return state


def _sql(query: Executable | Query, dialect: Dialect) -> str:
    """Return the text of *query*, on one line."""
    return re.sub(r"\s+", " ", _expanded(query, dialect).statement)


def _parameters(query: Executable | Query, dialect: Dialect) -> list[object]:
    return list(_expanded(query, dialect).parameters.values())


@pytest.fixture(params=BOTH)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    """Each database's way to write SQL."""
    chosen: Dialect = request.param
    return chosen


@pytest.fixture
def db(dialect: Dialect) -> Database:
    """What differs on the database of ``dialect``."""
    return database_for(dialect)


LEASE: Final = dt.timedelta(seconds=90)


def _queue_statements(db: Database, count: int = 2) -> dict[str, Query]:
    """Return every statement of the queue, those of lists with *count* values that differ."""
    claims = [
        new_claim(job_id=f"job-{number}", attempt=number, worker_id=f"w{number}")
        for number in range(count)
    ]
    settlements = [
        failed(claim, f"error {claim.attempt}", claim.attempt * LEASE)
        if claim.attempt
        else completed(claim)
        for claim in claims
    ]
    jobs = {
        claim.job_id: new_job(
            claim.job_id,
            priority=claim.attempt % 2,
            max_attempts=1 + claim.attempt % 2,
            available_at=MOMENT + claim.attempt * LEASE,
            unique=claim.attempt % 2 == 0,
        )
        for claim in claims
    }
    tracks = [job.track_id for job in jobs.values()]
    alone: dict[str, Executable] = {
        "get_next_pending_download_job": download_jobs.get_next_pending_download_job(db),
        "retry_failed_download_jobs": download_jobs.retry_failed_download_jobs(),
        "cancel_download_job": download_jobs.cancel_download_job("j"),
        "prune_download_jobs": download_jobs.prune_download_jobs(
            db, {DownloadJobStatus.COMPLETED}, LEASE, 10
        ),
        "get_download_claims": claims_sql.get_download_claims("w"),
        "rescue_expired_download_jobs": claims_sql.rescue_expired_download_jobs(db, 1_000),
        "get_download_queue_stats": download_queue.get_download_queue_stats(),
        "next_due": download_queue.next_due(),
    }
    return {
        "claim_download_jobs": claims_sql.claim_download_jobs(db, "w", 3, LEASE),
        "settle_download_jobs": claims_sql.settle_download_jobs(db, settlements),
        "renew_download_leases": claims_sql.renew_download_leases(db, claims, LEASE),
        "report_download_progress": claims_sql.report_download_progress(
            db, {claim: claim.attempt / count for claim in claims}
        ),
        "holding": claims_sql.holding(db, claims),
        "finished_by": claims_sql.finished_by(db, claims),
        "create_download_jobs": download_jobs.create_download_jobs(
            db, jobs, skip_duplicates=False, announced=False
        ),
        "create_download_jobs, past duplicates": download_jobs.create_download_jobs(
            db, jobs, skip_duplicates=True, announced=False
        ),
        "create_default_download_jobs": download_jobs.create_default_download_jobs(
            db, list(jobs), tracks, announced=False
        ),
        "active_unique_jobs": download_jobs.active_unique_jobs(db, tracks),
        "update_download_job_status": download_jobs.update_download_job_status(
            "j", DownloadJobStatus.IN_PROGRESS, None, None
        ),
        **{name: Query(statement, {}) for name, statement in alone.items()},
        **(
            {
                "exchange_download_jobs": claims_sql.exchange_download_jobs(
                    db, settlements, "w", 3, LEASE
                )
            }
            if db.writes_together
            else {}
        ),
    }


LISTS: Final = [
    "settle_download_jobs",
    "renew_download_leases",
    "report_download_progress",
    "holding",
    "finished_by",
    "create_download_jobs",
    "create_download_jobs, past duplicates",
    "create_default_download_jobs",
    "active_unique_jobs",
]
"""What is about a list of any length."""


def test_postgresql_picks_up_with_a_row_lock_that_skips_those_of_others() -> None:
    """In the order of the partial index, with nothing that a generic plan could not see."""
    pickup = download_jobs.get_next_pending_download_job(database_for(POSTGRESQL))

    assert _sql(pickup, POSTGRESQL).endswith(
        "FROM download_jobs AS candidate"
        " WHERE candidate.status = 'pending' AND candidate.priority = priorities.priority"
        " AND coalesce(candidate.available_at, candidate.created_at) <= statement_timestamp()"
        " ORDER BY coalesce(candidate.available_at, candidate.created_at), candidate.job_id"
        " LIMIT 1000 FOR UPDATE SKIP LOCKED) AS due ON true"
        " WHERE NOT (EXISTS (SELECT download_queue.id FROM download_queue"
        " WHERE download_queue.paused)) LIMIT 1"
    )
    assert _parameters(pickup, POSTGRESQL) == []


def test_postgresql_claims_through_an_array_and_never_through_in() -> None:
    """A subquery of IN may be run for each row, and then locks and claims others each time."""
    db = database_for(POSTGRESQL)
    for name, query in _queue_statements(db).items():
        text = _sql(query, POSTGRESQL)
        locks = text.count("FOR UPDATE")
        assert locks == text.count("SKIP LOCKED"), name
        if locks and not text.startswith("WITH RECURSIVE"):  # a pickup only reads
            assert "download_jobs.job_id = ANY (array((" in text, name
        assert re.search(r" IN \((WITH|SELECT)[^)]*candidate", text) is None, name


@pytest.mark.parametrize("name", ["claim_download_jobs", "exchange_download_jobs"])
def test_how_many_jobs_are_claimed_is_the_only_bound_limit(name: str) -> None:
    """A plan for all values could not know that an inner one is small, and would sort the queue."""
    text = _sql(_queue_statements(database_for(POSTGRESQL))[name], POSTGRESQL)

    inner, outer = re.findall(r"LIMIT (\S)", text)
    assert (inner, outer) == ("1", "$")


def test_sqlite_picks_up_with_a_write_that_changes_nothing() -> None:
    """Only a write makes every driver begin a transaction and take the file's lock."""
    pickup = _sql(download_jobs.get_next_pending_download_job(database_for(SQLITE)), SQLITE)

    assert pickup.startswith(
        "UPDATE download_jobs SET error_message=download_jobs.error_message"
        " WHERE download_jobs.job_id = (SELECT candidate.job_id"
    )
    assert (
        "ORDER BY candidate.priority DESC,"
        " coalesce(candidate.available_at, candidate.created_at), candidate.job_id LIMIT"
    ) in pickup
    assert "RETURNING job_id, track_id, status, progress, created_at, error_message" in pickup


def test_every_write_begins_with_its_verb_on_sqlite() -> None:
    """Before WITH the driver begins no transaction, and a rollback would undo nothing."""
    db = database_for(SQLITE)
    verbs = {
        name: _sql(query, SQLITE).split()[0]
        for name, query in _queue_statements(db).items()
        if re.search("UPDATE|INSERT|DELETE", _sql(query, SQLITE))
    }

    assert len(verbs) == 13
    assert set(verbs.values()) == {"UPDATE", "INSERT", "DELETE"}


@pytest.mark.parametrize("name", _queue_statements(database_for(POSTGRESQL)))
def test_no_status_that_an_index_knows_is_bound(dialect: Dialect, db: Database, name: str) -> None:
    """A parameter in its place would hide from the planner that the partial index fits."""
    query = _queue_statements(db).get(name)
    if query is None:  # SQLite has no exchange in one statement
        return
    bound = re.findall(r"status (?:=|!=|IN) \(?[$?]", _sql(query, dialect))

    # what is finished is found by when it finished
    assert bool(bound) is (name in {"get_download_queue_stats", "prune_download_jobs"})


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_the_queue_needs_no_more_parameters_the_longer_it_is(
    dialect: Dialect, db: Database, name: str
) -> None:
    """And the same text, however many values there are."""
    short, long = (_queue_statements(db, count)[name] for count in (2, 1_000))

    assert _sql(short, dialect) == _sql(long, dialect)
    assert short.parameters.keys() == long.parameters.keys()
    assert len(_parameters(long, dialect)) == len(_parameters(short, dialect)) <= 19


def test_what_is_the_same_for_all_of_a_list_is_sent_once_to_postgresql() -> None:
    """A worker settles hundreds of jobs under one name and with one outcome."""
    db = database_for(POSTGRESQL)
    claims = [new_claim(job_id=f"job-{number}") for number in range(100)]
    query = claims_sql.settle_download_jobs(db, [completed(claim) for claim in claims])

    assert query.parameters == {
        "given_job_id": "\x1f".join(f"job-{number}" for number in range(100)),
        "given_attempt": 1,
        "given_worker_id": "w",
        "given_outcome": "completed",
        "given_error": None,
        "given_retry_in": None,
        "given_mark": "\x1f",
        "given_null": "\x1e",
    }


@pytest.mark.parametrize("name", _queue_statements(database_for(POSTGRESQL)))
def test_no_moment_comes_from_this_machine(dialect: Dialect, db: Database, name: str) -> None:
    """The database's own clock judges what is due and whose lease is over."""
    query = _queue_statements(db).get(name)
    if query is None or name.startswith("create_"):
        return

    assert "datetime" not in repr(_parameters(query, dialect))
    assert "2024" not in repr(_parameters(query, dialect))


def test_a_duplicate_is_passed_over_by_the_index_of_unique_jobs(
    dialect: Dialect, db: Database
) -> None:
    """In the words of the index, so that the database finds it."""
    text = _sql(_queue_statements(db)["create_download_jobs, past duplicates"], dialect)

    assert (
        "ON CONFLICT (track_id) WHERE is_unique AND status IN ('pending', 'in_progress')"
        " DO NOTHING RETURNING"
    ) in text


def test_a_retry_looks_for_rivals_by_their_indexes(dialect: Dialect) -> None:
    """The queue may be long, the failed jobs few."""
    retry = _sql(download_jobs.retry_failed_download_jobs(), dialect)

    assert "WHERE download_jobs.status = 'failed' AND (" in retry
    assert "AND is_unique AND status IN ('pending', 'in_progress')" in retry


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
    """The text is the same for every length, and no limit of parameters is near.

    Beside it there may be what stands between two values, and from where on positions count.
    """
    track_ids = [f"track-{number}" for number in range(count)]
    statement = tracks.create_missing_tracks(db, track_ids)

    assert len(_parameters(statement, dialect)) <= 3
    assert _sql(statement, dialect) == _sql(tracks.create_missing_tracks(db, ["x"]), dialect)


@pytest.mark.parametrize("count", [2, 3, 50_000])
@pytest.mark.parametrize(
    "write", [playlists.add_entries, playlists.move_entries, playlists.remove_entries]
)
def test_the_entries_of_a_sync_are_a_parameter_a_column(
    dialect: Dialect, db: Database, write: Callable[..., Query], count: int
) -> None:
    """And on PostgreSQL what stands between two of them, however many of however many playlists."""
    width = 2 if write is playlists.remove_entries else 3
    rows = [("p", place, str(place))[:width] for place in range(count)]

    query = write(db, rows)

    assert len(_parameters(query, dialect)) <= width + 2
    assert _sql(query, dialect) == _sql(write(db, rows[:2]), dialect)


def test_tracks_are_inserted_in_the_order_of_the_list(dialect: Dialect, db: Database) -> None:
    """The order of the locks is what keeps two syncs from a deadlock."""
    insertion = _sql(tracks.create_missing_tracks(db, ["a", "b"]), dialect)

    assert re.search(r"ORDER BY \w+\.\S+( - \S+)? ON CONFLICT \(id\) DO NOTHING", insertion)


def test_a_track_that_is_there_only_gets_a_name_that_it_lacks(
    dialect: Dialect, db: Database
) -> None:
    """The name that is known goes first."""
    upsert = _sql(tracks.get_or_create_track(db, "t", "Name"), dialect)

    assert "ON CONFLICT (id) DO UPDATE SET name = coalesce(tracks.name, excluded.name)" in upsert


def _token(access: str, refresh: str) -> SpotifyTokenData:
    return SpotifyTokenData(access_token=access, refresh_token=refresh, expires_at=MOMENT)


def test_a_login_overwrites_the_one_row(dialect: Dialect, db: Database) -> None:
    """An upsert by the primary key, which is always 1."""
    login = spotify_tokens.log_in(db, _token("a", "r"), "login")

    assert "ON CONFLICT (id) DO UPDATE SET access_token = excluded.access_token" in _sql(
        login, dialect
    )
    assert 1 in _parameters(login, dialect)


def test_the_secrets_of_a_login_are_parameters_and_never_text(
    dialect: Dialect, db: Database
) -> None:
    """What is in the text of a statement ends up in the database's own logs."""
    login = spotify_tokens.log_in(db, _token("canary-a", "canary-r"), "login")

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
    columns = [
        line
        for table in tables
        for line in table.splitlines()
        if "id VARCHAR" in line and "worker_id" not in line  # by which nothing is ordered
    ]

    assert len(columns) == 7
    assert [line for line in columns if 'COLLATE "C"' not in line] == []


def test_no_statement_of_the_queues_workers_is_one_of_the_orms(db: Database) -> None:
    """Its cache key would be worked out at each execution, which takes longer than to run it.

    SQLAlchemy tells by an attribute that is its own; nothing public does.
    """
    made = {name: query.statement for name, query in _queue_statements(db).items()}
    entities = {name for name, each in made.items() if vars(each).get("_propagate_attrs")}

    assert entities == {  # what callers get objects from, or may hold objects of
        "cancel_download_job",
        "get_download_queue_stats",
        "get_next_pending_download_job",
        "prune_download_jobs",
        "retry_failed_download_jobs",
        "update_download_job_status",
    }
