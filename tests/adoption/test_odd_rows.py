"""Odd rows of the original: what has one sensible meaning is mended, anything else is refused."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.adoption.original import (
    SQL,
    Row,
    contents,
    create_original,
    entry,
    execute,
    insert,
    job,
    token,
)
from tests.support.factories import stored_row, stored_track_ids
from tests.support.pools import drain, statuses
from zotify_async_crud import crud, database
from zotify_async_crud.adoption import AdoptionReport, adopt
from zotify_async_crud.errors import AdoptionRefused

OLD: Final = "2025-08-11"
NUL: Final = SQL("'a' || char(0) || 'b'")
NO_UTF_8: Final = SQL("CAST(x'ff' AS TEXT)")
ASSOCIATION: Final = "playlist_track_association"

only_sqlite: Final = pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
only_postgresql: Final = pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)


def moment(hour: int, microsecond: int = 0) -> dt.datetime:
    """Return a moment of the day on which all is stored."""
    return dt.datetime(2025, 9, 1, hour, 0, 0, microsecond, tzinfo=dt.UTC)


def notes_about(report: AdoptionReport, place: str) -> list[str]:
    """Return what the report says about *place*, without that."""
    return [note.removeprefix(place).strip() for note in report.notes if note.startswith(place)]


async def adopt_job(engine: AsyncEngine, row: Row) -> tuple[dict[str, Any], AdoptionReport]:
    """Adopt a database of the first version with one job; return what it is now."""
    await create_original(engine, OLD)
    await insert(engine, "download_jobs", row)
    report = await adopt(engine)
    return await stored_row(database.create_session_factory(engine), row["job_id"]), report


@pytest.mark.parametrize("status", ["PENDING", "Pending", "IN_PROGRESS", "cancelled"])
async def test_a_status_may_be_written_in_capitals(empty_engine: AsyncEngine, status: str) -> None:
    """As the names of the original's statuses are; one that only this library has is its own."""
    found, report = await adopt_job(empty_engine, job(status=status))

    expected = "cancelled" if status == "cancelled" else "pending"
    assert (found["status"], report.jobs) == (expected, {expected: 1})
    assert report.requeued == (status == "IN_PROGRESS")


@pytest.mark.parametrize(
    "progress", [None, -0.5, 1.5, 50, SQL("CAST('inf' AS FLOAT)"), SQL("CAST('nan' AS FLOAT)")]
)
async def test_a_progress_that_is_no_share_is_none(
    empty_engine: AsyncEngine, progress: float | None
) -> None:
    """What it was meant to say is not known, and it says nothing that could be lost."""
    row = job(status="failed", progress=progress)
    await create_original(empty_engine, OLD)
    await insert(empty_engine, "download_jobs", row)
    if str(progress).startswith("CAST") and empty_engine.dialect.name == "sqlite":
        await execute(empty_engine, "UPDATE download_jobs SET progress = 9e999")

    report = await adopt(empty_engine)

    found = await stored_row(database.create_session_factory(empty_engine), "j")
    assert found["progress"] == 0.0
    assert notes_about(report, "download_jobs.progress") == [
        "is not between 0 and 1, and is 0 now (rows: 1, the first: 'j')"
    ]


async def test_a_job_without_a_time_is_as_old_as_the_adoption(empty_engine: AsyncEngine) -> None:
    """The first version allowed it."""
    found, report = await adopt_job(empty_engine, job(created_at=None, status="completed"))

    assert found["created_at"] == found["finished_at"]
    assert notes_about(report, "download_jobs.created_at") == [
        "is missing, and is that of the adoption now (rows: 1, the first: 'j')"
    ]


async def test_a_job_of_the_future_is_due_now(empty_engine: AsyncEngine) -> None:
    """As a server east of Greenwich wrote it in its own time; the original looked at no clock."""
    found, report = await adopt_job(empty_engine, job(created_at="2999-01-01 00:00:00"))

    sessions = database.create_session_factory(empty_engine)
    await drain(sessions)
    assert await statuses(sessions) == {"completed": 1}
    assert found["created_at"].year == 2999
    assert notes_about(report, "download_jobs.created_at is")[0].startswith("in the future")


async def test_a_finished_job_of_the_future_stays_as_it_is(empty_engine: AsyncEngine) -> None:
    """Nobody waits for it."""
    row = job(created_at="2999-01-01 00:00:00", status="failed")

    found, report = await adopt_job(empty_engine, row)

    assert found["available_at"] is None
    assert notes_about(report, "download_jobs.created_at is") == []


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2025-09-01 10:00:00", moment(10)),
        ("2025-09-01 10:00:00.123456", moment(10, 123456)),
        ("2025-09-01 10:00:00.123", moment(10, 123000)),
        ("2025-09-01T10:00:00Z", moment(10)),
        ("2025-09-01 10:00:00+02:00", moment(8)),
        ("2025-09-01", moment(0)),
    ],
)
@only_sqlite
async def test_a_datetime_may_be_written_in_several_ways(
    empty_engine: AsyncEngine, written: str, expected: dt.datetime
) -> None:
    """SQLite keeps what a program writes; without a zone it is UTC, which the report says."""
    found, report = await adopt_job(empty_engine, job(created_at=written))

    assert found["created_at"] == expected
    has_zone = written.endswith(("Z", "+02:00"))
    assert notes_about(report, "download_jobs.created_at has no time zone") == (
        [] if has_zone else [", and is taken as UTC"]
    )


@only_postgresql
@pytest.mark.parametrize("version", [OLD, "2025-10-11"])
async def test_a_datetime_without_a_zone_is_in_utc(empty_engine: AsyncEngine, version: Any) -> None:
    """Only the first versions' columns have none."""
    await create_original(empty_engine, version)
    await insert(empty_engine, "download_jobs", job(created_at="2025-09-01 10:00:00.123456"))

    report = await adopt(empty_engine)

    found = await stored_row(database.create_session_factory(empty_engine), "j")
    assert found["created_at"] == moment(10, 123456)
    assert bool(notes_about(report, "download_jobs.created_at")) == (version == OLD)


async def test_a_playlist_without_a_name_has_an_empty_one(empty_engine: AsyncEngine) -> None:
    """The original's tables refuse it, unless somebody has changed them."""
    await create_original(empty_engine)
    await execute(empty_engine, "DROP TABLE playlist_track_association", "DROP TABLE playlists")
    await execute(
        empty_engine,
        "CREATE TABLE playlists (id VARCHAR PRIMARY KEY, name VARCHAR)",
        "CREATE TABLE playlist_track_association (playlist_id VARCHAR, track_id VARCHAR)",
    )
    await insert(empty_engine, "playlists", {"id": "p", "name": None})

    report = await adopt(empty_engine)

    async with database.create_session_factory(empty_engine)() as db:
        found = await crud.get_playlist(db, "p")
    assert found is not None
    assert found.name == ""
    assert report.notes == (
        "playlists.name is missing, and is empty now (rows: 1, the first: 'p')",
    )


@pytest.fixture
async def loose(empty_engine: AsyncEngine) -> AsyncEngine:
    """An engine on tables that refer to each other by nothing, as on SQLite they never do."""
    await create_original(empty_engine, OLD)
    await execute(
        empty_engine,
        f"DROP TABLE {ASSOCIATION}",
        f"CREATE TABLE {ASSOCIATION} (playlist_id VARCHAR, track_id VARCHAR)",
    )
    await insert(empty_engine, "playlists", {"id": "p", "name": "Focus"})
    await insert(empty_engine, "tracks", {"id": "a", "name": "Song"})
    return empty_engine


async def test_a_track_that_only_a_playlist_names_is_made(loose: AsyncEngine) -> None:
    """Its id is all that there is to know of it yet, and the place in the playlist is kept."""
    await insert(loose, ASSOCIATION, *(entry("p", key) for key in "xax"))

    report = await adopt(loose)

    assert await stored_track_ids(database.create_session_factory(loose)) == ["x", "a", "x"]
    assert (report.tracks, report.entries) == (2, 3)
    assert notes_about(report, f"{ASSOCIATION}.track_id") == [
        "names a track that there was not, and is now (rows: 1, the first: 'x')"
    ]


async def test_what_stands_in_no_playlist_is_left_out(loose: AsyncEngine) -> None:
    """It could not be seen in the original, and no name is known; the report tells of it."""
    await insert(loose, ASSOCIATION, entry("p", "a"), entry("gone", "y"), entry("p", None))

    report = await adopt(loose)

    assert await stored_track_ids(database.create_session_factory(loose)) == ["a"]
    assert (report.tracks, report.entries) == (1, 1)
    assert sorted(notes_about(report, f"{ASSOCIATION}.")) == [
        "playlist_id names no playlist: the entry is left out (rows: 1, the first: 'gone')",
        "track_id names no track: the entry is left out (rows: 1, the first: 'p')",
    ]


async def test_what_names_nothing_is_left_out(loose: AsyncEngine) -> None:
    """The first version's association could hold rows without either id."""
    await insert(loose, ASSOCIATION, entry(None, "a"), entry(None, None))

    report = await adopt(loose)

    assert (report.tracks, report.entries) == (1, 0)
    assert notes_about(report, f"{ASSOCIATION}.") == [
        "playlist_id names no playlist: the entry is left out (rows: 2, the first: None)"
    ]


@only_sqlite
async def test_nul_characters_are_left_out_of_texts(empty_engine: AsyncEngine) -> None:
    """No other database takes them, and nobody can see them."""
    await create_original(empty_engine)
    await insert(empty_engine, "tracks", {"id": "a", "name": NUL, "album": NUL})

    report = await adopt(empty_engine)

    async with empty_engine.connect() as connection:
        stored = await connection.exec_driver_sql("SELECT name, artist, album FROM tracks")
        assert stored.one() == ("ab", None, "ab")
    assert report.notes == (
        "tracks.name has NUL characters, which are left out (rows: 1, the first: 'a')",
        "tracks.album has NUL characters, which are left out (rows: 1, the first: 'a')",
    )


@pytest.mark.parametrize("damage", [{"refresh_token": ""}, {"access_token": "\u2801"}])
async def test_a_token_that_is_none_is_left_out(
    empty_engine: AsyncEngine, damage: dict[str, str]
) -> None:
    """Nobody could refresh it: the newest of the others is kept."""
    (column,) = damage
    last = "2025-09-01 12:00:00"
    await create_original(empty_engine)
    await insert(empty_engine, "spotify_tokens", token(1), token(2, expires_at=last))
    await execute(
        empty_engine, f"UPDATE spotify_tokens SET {column} = '{damage[column]}' WHERE id = 2"
    )

    report = await adopt(empty_engine)

    assert (report.token, report.left_out_tokens) == (True, 1)
    async with database.create_session_factory(empty_engine)() as db:
        kept = await crud.get_spotify_token(db)
    assert kept is not None
    assert kept.access_token == "access-1"
    (note,) = notes_about(report, f"spotify_tokens.{column}")
    assert note.startswith("is no token, and is left out: ")


@pytest.mark.parametrize("refresh_token", [None, ""])
async def test_only_tokens_that_are_none_are_no_login(
    empty_engine: AsyncEngine, refresh_token: str | None
) -> None:
    """Somebody has to log in again, which the report says."""
    await create_original(empty_engine)
    columns = "id INTEGER PRIMARY KEY, user_id VARCHAR, access_token VARCHAR, refresh_token VARCHAR"
    await execute(
        empty_engine,
        "DROP TABLE spotify_tokens",
        f"CREATE TABLE spotify_tokens ({columns}, expires_at TIMESTAMP)",
    )
    await insert(empty_engine, "spotify_tokens", token(refresh_token=refresh_token))

    report = await adopt(empty_engine)

    assert (report.token, report.left_out_tokens) == (False, 1)


LONG: Final = "x" * 256
DATETIME: Final = "Input should be a datetime between the years 1 and 9999"
STATUS: Final = "Input should be one of pending, in_progress, completed, failed, cancelled"
YEAR: Final = "holds a datetime that is not between the years 1 and 9999"
UNREADABLE: Final = "holds what cannot be read, such as a text that is not UTF-8"
TOO_SHORT: Final = "String should have at least 1 character"

REFUSED: Final[list[tuple[str, Row, str]]] = [
    ("download_jobs", job(status="queued"), f"download_jobs.status of 'j': {STATUS}"),
    ("download_jobs", job(status=""), f"download_jobs.status of 'j': {STATUS}"),
    ("download_jobs", job(track_id=""), f"download_jobs.track_id of 'j': {TOO_SHORT}"),
    ("download_jobs", job(""), f"download_jobs.job_id of '': {TOO_SHORT}"),
    (
        "download_jobs",
        job("j" * 37),
        f"download_jobs.job_id of '{'j' * 37}': String should have at most 36 characters",
    ),
    ("tracks", {"id": ""}, f"tracks.id of '': {TOO_SHORT}"),
    (
        "tracks",
        {"id": LONG},
        f"tracks.id of '{'x' * 37}...{'x' * 38}': String should have at most 255 characters",
    ),
    ("playlists", {"id": "", "name": "n"}, f"playlists.id of '': {TOO_SHORT}"),
]

REFUSED_ON_SQLITE: Final[list[tuple[str, Row, str]]] = [
    ("download_jobs", job(created_at="yesterday"), f"download_jobs.created_at of 'j': {DATETIME}"),
    ("download_jobs", job(created_at="2025-02-30"), f"download_jobs.created_at of 'j': {DATETIME}"),
    ("download_jobs", job(created_at=1756720800), f"download_jobs.created_at of 'j': {DATETIME}"),
    (
        "download_jobs",
        job(track_id=NUL),
        "download_jobs.track_id of 'j': String should not contain NUL characters",
    ),
    ("tracks", {"id": "a", "name": SQL("x'ff'")}, "tracks.name of 'a': Input should be a text"),
    ("tracks", {"id": "a", "album": NO_UTF_8}, f"tracks {UNREADABLE}"),
    ("tracks", {"id": SQL("x'ff'")}, "tracks.id of b'\\xff': Input should be a valid string"),
    ("spotify_tokens", token(expires_at="soon"), f"spotify_tokens.expires_at of 1: {DATETIME}"),
    ("spotify_tokens", token(access_token=NO_UTF_8), f"spotify_tokens {UNREADABLE}"),
    ("spotify_tokens", token(expires_at=""), f"spotify_tokens.expires_at of 1: {DATETIME}"),
]

REFUSED_ON_POSTGRESQL: Final[list[tuple[str, Row, str]]] = [
    ("download_jobs", job(created_at="infinity"), f"download_jobs.created_at of 'j': {DATETIME}"),
    (
        "spotify_tokens",
        token(expires_at="-infinity"),
        f"spotify_tokens.expires_at of 1: {DATETIME}",
    ),
    ("download_jobs", job(created_at="12025-01-01"), f"download_jobs {YEAR}"),
    ("spotify_tokens", token(expires_at="12025-01-01"), f"spotify_tokens {YEAR}"),
]


async def check_refused(engine: AsyncEngine, table: str, row: Row, reason: str) -> None:
    """Make sure that a database with *row* is refused, and is as it was."""
    await create_original(engine)
    await insert(engine, "download_jobs", *(job(f"good-{number}") for number in range(3)))
    await insert(engine, table, row)
    before = await contents(engine)

    with pytest.raises(AdoptionRefused) as caught:
        await adopt(engine)

    assert caught.value.reason == reason
    assert await contents(engine) == before


@pytest.mark.parametrize(("table", "row", "reason"), REFUSED)
async def test_what_has_no_sensible_meaning_is_refused(
    empty_engine: AsyncEngine, table: str, row: Row, reason: str
) -> None:
    """By the name of its table, column and key; nothing at all is written then."""
    await check_refused(empty_engine, table, row, reason)


@only_sqlite
@pytest.mark.parametrize(("table", "row", "reason"), REFUSED_ON_SQLITE)
async def test_what_only_sqlite_stores_is_refused(
    empty_engine: AsyncEngine, table: str, row: Row, reason: str
) -> None:
    """It keeps whatever a program writes, whatever the column's type is."""
    await check_refused(empty_engine, table, row, reason)


@only_postgresql
@pytest.mark.parametrize(("table", "row", "reason"), REFUSED_ON_POSTGRESQL)
async def test_what_only_postgresql_stores_is_refused(
    empty_engine: AsyncEngine, table: str, row: Row, reason: str
) -> None:
    """Its years go farther than those of Python, and beyond all."""
    await check_refused(empty_engine, table, row, reason)


async def test_an_entry_of_a_track_that_cannot_be_is_refused(loose: AsyncEngine) -> None:
    """It would have to be made, and no table of this library takes it."""
    await insert(loose, ASSOCIATION, entry("p", ""))

    with pytest.raises(AdoptionRefused) as caught:
        await adopt(loose)

    assert caught.value.reason == f"{ASSOCIATION}.track_id of '': {TOO_SHORT}"


@pytest.mark.parametrize("count", [1_000, 1_001])
async def test_rows_come_in_parts(empty_engine: AsyncEngine, count: int) -> None:
    """None is lost between two parts, whether the last is full or not."""
    rows: Sequence[Row] = [{"id": f"t{number}", "name": None} for number in range(count)]
    await create_original(empty_engine)
    await insert(empty_engine, "tracks", *rows)

    assert (await adopt(empty_engine)).tracks == count
