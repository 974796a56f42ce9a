"""Engines and sessions: what ``create_engine`` sets up, what wins over it, and what it refuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import traceback
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import insert, literal, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool

from tests.support.factories import (
    Sessions,
    add_job,
    add_jobs,
    all_rows,
    new_job,
    stored_job,
    token_data,
)
from tests.support.faults import (
    only_postgresql,
    only_sqlite,
    writer_of,
)
from tests.support.pools import until
from zotify_async_crud import crud, database, migrations
from zotify_async_crud._dialects import sqlite_engine
from zotify_async_crud._dialects.types import Real, UTCDateTime
from zotify_async_crud.encryption import SealedText, StoredText
from zotify_async_crud.errors import (
    AccessRefused,
    DatabaseError,
    DatabaseUnavailable,
    InvalidValue,
    OutcomeUnknown,
    TransactionConflict,
    UnsupportedDatabase,
)
from zotify_async_crud.models import Base, Track
from zotify_async_crud.schemas import DownloadJobStatus
from zotify_async_crud.token_refresh import get_valid_spotify_token

OWNER_ONLY: Final = 0o600


async def ask(engine: AsyncEngine, question: str) -> Any:
    """Return the one value that *question*, in SQL, is answered with."""
    async with engine.connect() as connection:
        return (await connection.execute(text(question))).scalar_one()


@only_sqlite
@pytest.mark.parametrize(
    ("setting", "value"),
    [("journal_mode", "wal"), ("foreign_keys", 1), ("busy_timeout", 30_000)],
)
async def test_sqlite_is_set_up_for_many_readers_and_a_patient_writer(
    engine: AsyncEngine, setting: str, value: object
) -> None:
    """Each connection has the write-ahead log, foreign keys and 30 s of patience."""
    assert await ask(engine, f"PRAGMA {setting}") == value


@only_postgresql
@pytest.mark.parametrize(
    ("setting", "value"), [("timezone", "UTC"), ("application_name", "zotify_async_crud")]
)
async def test_postgresql_is_set_up_for_utc_and_to_be_recognised(
    engine: AsyncEngine, setting: str, value: object
) -> None:
    """A server of another time zone makes no difference, and an administrator sees who is there."""
    assert await ask(engine, f"SHOW {setting}") == value


@only_postgresql
async def test_settings_of_the_callers_win_and_the_others_stay(url: str) -> None:
    """An option replaces its own default and no other, also within ``server_settings``."""
    engine = database.create_engine(
        url,
        pool_size=3,
        pool_pre_ping=False,
        connect_args={"server_settings": {"application_name": "mine"}},
    )
    assert await ask(engine, "SHOW application_name") == "mine"
    assert await ask(engine, "SHOW timezone") == "UTC"
    assert engine.pool.size() == 3  # type: ignore[attr-defined]
    assert not engine.pool._pre_ping  # noqa: SLF001 - nothing public tells
    await engine.dispose()


@only_sqlite
async def test_a_busy_timeout_of_the_callers_wins_and_the_rest_stays(url: str) -> None:
    """An option replaces its own default and no other."""
    engine = database.create_engine(url, connect_args={"timeout": 0.5}, poolclass=NullPool)
    assert await ask(engine, "PRAGMA busy_timeout") == 500
    assert await ask(engine, "PRAGMA foreign_keys") == 1
    assert isinstance(engine.pool, NullPool)
    await engine.dispose()


@only_sqlite
async def test_a_busy_timeout_may_stand_in_the_url(url: str) -> None:
    """Where it replaces the default, and is replaced by an argument."""
    engine = database.create_engine(f"{url}?timeout=0.5")
    assert await ask(engine, "PRAGMA busy_timeout") == 500
    await engine.dispose()
    engine = database.create_engine(f"{url}?timeout=0.5", connect_args={"timeout": 0.25})
    assert await ask(engine, "PRAGMA busy_timeout") == 250
    await engine.dispose()


@only_postgresql
async def test_timeouts_may_stand_in_the_url(url: str) -> None:
    """As numbers, though the driver would take them as the texts they are there."""
    timed = make_url(url).update_query_dict({"command_timeout": "0.2", "statement_cache_size": "0"})
    engine = database.create_engine(timed)
    with pytest.raises(OutcomeUnknown), database.translated_errors():
        await ask(engine, "SELECT pg_sleep(60)")
    await engine.dispose()


@only_postgresql
async def test_what_is_wrong_with_the_encryption_of_a_connection_is_told(url: str) -> None:
    """In the driver's words, as it looks for the file of a certificate, for instance."""
    engine = database.create_engine(make_url(url).update_query_dict({"ssl": "perhaps"}))
    with pytest.raises(InvalidValue, match="one of: disable, allow"), database.translated_errors():
        await ask(engine, "SELECT 1")


async def test_a_pipe_is_no_database(tmp_path: Path) -> None:
    """It is refused, and not waited for."""
    os.mkfifo(tmp_path / "pipe")
    engine = database.create_engine(f"sqlite:///{tmp_path}/pipe")
    with pytest.raises(AccessRefused, match="Is a pipe"):
        await ask(engine, "SELECT 1")


@only_postgresql
async def test_a_statement_that_waits_longer_than_the_timeout_is_given_up(
    url: str, sessions: Sessions
) -> None:
    """The coroutine ends with an error that allows another try, and the engine goes on working."""
    job = await add_job(sessions)
    engine = database.create_engine(url, connect_args={"command_timeout": 0.2})
    hasty = database.create_session_factory(engine)
    async with sessions.begin() as holder:
        await crud.update_download_job_status(holder, job, DownloadJobStatus.IN_PROGRESS)
        db = hasty()
        with pytest.raises(DatabaseUnavailable) as given_up:
            await crud.update_download_job_status(db, job, DownloadJobStatus.FAILED)
        with contextlib.suppress(DatabaseError), database.translated_errors():
            await db.close()  # its ROLLBACK has 0.2 s, too
    assert given_up.value.retry_safe

    async def goes_on() -> bool:
        with contextlib.suppress(DatabaseError), database.translated_errors():
            async with hasty.begin() as db:
                await crud.update_download_job_status(db, job, DownloadJobStatus.FAILED)
            return True
        return False

    await until(goes_on)
    assert (await stored_job(sessions, job.job_id)).status is DownloadJobStatus.FAILED
    await engine.dispose()


async def test_a_new_file_and_its_companions_are_their_owners_only(tmp_path: Path) -> None:
    """The token is in there; the mode does not depend on the process's mask."""
    path = tmp_path / "new.db"
    engine = database.create_engine(f"sqlite:///{path}")
    await migrations.upgrade(engine)
    async with database.create_session_factory(engine).begin() as db:
        await crud.create_download_job(db, new_job())
        modes = modes_in(tmp_path)
    await engine.dispose()
    assert modes == dict.fromkeys(["new.db", "new.db-wal", "new.db-shm"], OWNER_ONLY)


async def test_the_mode_of_a_file_that_exists_is_kept(tmp_path: Path) -> None:
    """Whoever shares the file with a group has decided so."""
    path = tmp_path / "shared.db"
    path.touch()
    path.chmod(0o660)
    engine = database.create_engine(f"sqlite:///{path}")
    await migrations.upgrade(engine)
    await engine.dispose()
    assert mode_of(path) == 0o660


@pytest.fixture
async def old_file(tmp_path: Path) -> Path:
    """A file with tables of ours, and without the log."""
    path = tmp_path / "old.db"
    plain = create_async_engine(f"sqlite+aiosqlite:///{path}")
    await migrations.upgrade(plain)
    await plain.dispose()
    return path


def reader_of(path: Path) -> sqlite3.Connection:
    """Return a connection that reads, and does not end its transaction."""
    reader = sqlite3.connect(path, isolation_level=None)
    reader.executescript("BEGIN; SELECT * FROM tracks")
    return reader


async def test_the_switch_to_the_log_waits_for_whoever_uses_the_file(old_file: Path) -> None:
    """SQLite refuses it at once, so several first processes would fail."""
    reader = reader_of(old_file)
    engine = database.create_engine(f"sqlite:///{old_file}", connect_args={"timeout": 0})
    asking = asyncio.create_task(ask(engine, "PRAGMA journal_mode"))
    done, _ = await asyncio.wait({asking}, timeout=0.3)
    assert not done

    reader.close()

    assert await asking == "wal"
    await engine.dispose()


async def test_the_switch_to_the_log_is_given_up_in_the_end(
    old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever uses the file may never leave it."""
    monkeypatch.setattr(sqlite_engine, "BUSY_TIMEOUT", 0.0)
    with contextlib.closing(reader_of(old_file)):
        engine = database.create_engine(f"sqlite:///{old_file}", connect_args={"timeout": 0})

        with pytest.raises(TransactionConflict), database.translated_errors():
            await ask(engine, "SELECT 1")

    await engine.dispose()


async def test_a_file_of_somebody_else_gets_the_log_with_our_tables(tmp_path: Path) -> None:
    """Before that it is left as it is."""
    path = tmp_path / "theirs.db"
    with contextlib.closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE other (id)")
    engine = database.create_engine(f"sqlite:///{path}")
    assert await ask(engine, "PRAGMA journal_mode") == "delete"

    await migrations.upgrade(engine)

    assert await ask(engine, "PRAGMA journal_mode") == "wal"
    await engine.dispose()


async def test_a_relative_path_is_one_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in every other use of SQLite."""
    monkeypatch.chdir(tmp_path)
    engine = database.create_engine("sqlite:///here.db")
    await migrations.upgrade(engine)
    await engine.dispose()
    assert mode_of(tmp_path / "here.db") == OWNER_ONLY


@pytest.mark.parametrize(
    ("url", "drivername"),
    [
        ("postgres://u@h/d", "postgresql+asyncpg"),
        ("postgresql://u@h/d", "postgresql+asyncpg"),
        ("postgresql+asyncpg://u@h/d", "postgresql+asyncpg"),
        ("sqlite://", "sqlite+aiosqlite"),
        ("sqlite:///f.db", "sqlite+aiosqlite"),
        ("sqlite+aiosqlite:///f.db", "sqlite+aiosqlite"),
    ],
)
@pytest.mark.parametrize("read", [str, make_url])
async def test_a_url_without_a_driver_gets_the_supported_one(
    url: str, drivername: str, read: Any
) -> None:
    """Also in the spelling of hosting providers, and also when it is a URL already."""
    engine = database.create_engine(read(url))
    assert engine.url.drivername == drivername
    assert engine.url.database == make_url(url).database
    await engine.dispose()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("mysql://u:hunter2@h/d", "mysql"),
        ("postgresql+psycopg://u:hunter2@h/d", "postgresql+psycopg"),
        ("oracle://u:hunter2@h/d", "oracle"),
        ("sqlite+pysqlite:///f.db", "sqlite+pysqlite"),
    ],
)
def test_a_database_or_driver_that_was_never_tested_is_refused(url: str, name: str) -> None:
    """Nobody guesses how it locks."""
    with pytest.raises(UnsupportedDatabase) as refused:
        database.create_engine(url)
    assert refused.value.name == name
    assert "hunter2" not in everything_about(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "zotify.db",
        "postgresql//u:hunter2@h/d",
        "postgresql://u:hunter2@h:port/d",
        "postgresql://u:with@sign:hunter2@h/d",
        "://u:hunter2@h/d",
        None,
        7,
    ],
)
def test_what_is_no_url_is_refused_without_showing_its_password(url: Any) -> None:
    """Neither the message nor anything in the chain tells it."""
    with pytest.raises(InvalidValue) as refused:
        database.create_engine(url)
    assert refused.value.field == "url"
    assert "hunter2" not in everything_about(refused.value)


@only_postgresql
async def test_behind_pgbouncer_nothing_prepared_is_used_again(url: str) -> None:
    """Neither cache keeps a statement, and no name is used twice; the engine works as any other."""
    engine = database.create_engine(url, pgbouncer=True)
    sessions = database.create_session_factory(engine)
    for _ in range(3):
        async with sessions.begin() as db:
            await crud.create_download_job(db, new_job())
            names = await db.scalars(text("SELECT name FROM pg_prepared_statements"))
            prepared = names.all()
            assert len(prepared) <= 1  # this very statement
            assert all(name.startswith("__asyncpg_") and len(name) > 40 for name in prepared)
    await engine.dispose()


@only_postgresql
async def test_without_pgbouncer_prepared_statements_are_kept(engine: AsyncEngine) -> None:
    """The control of the test before."""
    async with database.create_session_factory(engine).begin() as db:
        await crud.create_download_job(db, new_job())
        names = await db.scalars(text("SELECT name FROM pg_prepared_statements"))
        assert len(names.all()) > 1


async def test_sessions_keep_what_they_loaded_after_a_commit(sessions: Sessions) -> None:
    """Reading an attribute after the block sends no SQL, which asyncio could not do there."""
    async with sessions.begin() as db:
        job = await crud.create_download_job(db, new_job("kept"))
    assert job.track_id == "kept"


@only_sqlite
async def test_readers_of_a_read_only_engine_do_not_wait_for_a_writer(
    url: str, sessions: Sessions
) -> None:
    """They see what was committed before, while the others wait."""
    await add_jobs(sessions, 1)
    at_once = {"timeout": 0}
    reading = database.create_engine(url, read_only=True, connect_args=at_once)
    impatient = database.create_engine(url, connect_args=at_once)
    readers = database.create_session_factory(reading)
    writers = database.create_session_factory(impatient)
    with writer_of(url) as writer:
        writer.execute("DELETE FROM download_jobs")
        async with readers.begin() as db:
            assert len(await crud.get_all_download_jobs(db)) == 1
        with pytest.raises(TransactionConflict):  # the control
            async with writers.begin() as db:
                await crud.get_all_download_jobs(db)
        writer.execute("COMMIT")
    async with readers.begin() as db:
        assert await crud.get_all_download_jobs(db) == []
    await impatient.dispose()
    await reading.dispose()


@only_sqlite
async def test_readers_of_a_read_only_engine_keep_no_writer_waiting(url: str) -> None:
    """A writer commits while they read, and what they see stays as it was."""
    engine = database.create_engine(url, read_only=True)
    readers = database.create_session_factory(engine)
    async with readers.begin() as db:
        assert await crud.get_all_download_jobs(db) == []
        with writer_of(url) as writer:
            writer.execute("INSERT INTO download_jobs (job_id, track_id) VALUES ('j', 't')")
            writer.execute("COMMIT")
        assert await crud.get_all_download_jobs(db) == []
    await engine.dispose()


async def test_a_read_only_engine_refuses_to_write(url: str) -> None:
    """What was meant to read only is told so, and nothing is written."""
    engine = database.create_engine(url, read_only=True)
    sessions = database.create_session_factory(engine)
    with pytest.raises(AccessRefused):
        async with sessions.begin() as db:
            await crud.create_download_job(db, new_job())
    with pytest.raises(AccessRefused):
        async with sessions.begin() as db:
            await crud.get_next_pending_download_job(db)
    async with sessions.begin() as db:
        assert await crud.get_all_download_jobs(db) == []
    await engine.dispose()


async def test_a_connection_used_with_autocommit_is_transactional_again(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """What one use of a pooled connection set is not there in the next one."""
    async with engine.connect() as connection:
        autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await autocommit.execute(insert(Track).values(id="committed"))
        await autocommit.rollback()
    before = await all_rows(sessions)
    assert len(before["tracks"]) == 1
    async with sessions() as db:
        await crud.get_or_create_track(db, "rolled back")
        await crud.get_next_pending_download_job(db)  # which would refuse to commit each statement
        await db.rollback()
    assert await all_rows(sessions) == before


async def test_a_savepoint_that_is_rolled_back_takes_only_its_own_part(sessions: Sessions) -> None:
    """What was done before it stays, in the session and in the database."""
    async with sessions.begin() as db:
        kept = await crud.create_download_job(db, new_job("kept"))
        savepoint = await db.begin_nested()
        await crud.create_download_job(db, new_job("dropped"))
        await crud.create_or_update_playlist(db, "p", "n", ["a"])
        await savepoint.rollback()
        async with db.begin_nested():
            await crud.update_download_job_status(db, kept, DownloadJobStatus.FAILED, "why")
    async with sessions() as db:
        (job,) = await crud.get_all_download_jobs(db)
        assert (job.track_id, job.status) == ("kept", DownloadJobStatus.FAILED)
        assert await crud.get_playlist(db, "p") is None


async def test_a_pickup_inside_a_savepoint_that_is_rolled_back_gives_the_job_back(
    sessions: Sessions,
) -> None:
    """The same transaction can pick it up again."""
    (queued,) = await add_jobs(sessions, 1)
    async with sessions.begin() as db:
        savepoint = await db.begin_nested()
        job = await crud.get_next_pending_download_job(db)
        assert job is not None
        await crud.update_download_job_status(db, job, DownloadJobStatus.IN_PROGRESS)
        await savepoint.rollback()
        again = await crud.get_next_pending_download_job(db)
        assert again is not None
        assert (again.job_id, again.status) == (queued, DownloadJobStatus.PENDING)


async def test_savepoints_work_on_an_engine_of_the_callers(plain_sessions: Sessions) -> None:
    """As far as the driver lets them: inside a transaction that has written."""
    async with plain_sessions.begin() as db:
        await crud.create_download_job(db, new_job("kept"))
        savepoint = await db.begin_nested()
        await crud.create_download_job(db, new_job("dropped"))
        await savepoint.rollback()
    async with plain_sessions() as db:
        assert [job.track_id for job in await crud.get_all_download_jobs(db)] == ["kept"]


async def test_the_schema_can_be_created_by_metadata_alone(url: str) -> None:
    """``Base.metadata.create_all`` on an engine of the caller's makes what the library needs."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    sessions = database.create_session_factory(engine)
    async with sessions.begin() as db:
        await crud.create_or_update_playlist(db, "p", "n", ["a", "a"])
        await crud.create_download_job(db, new_job())
    await engine.dispose()


def modes_in(folder: Path) -> dict[str, int]:
    """Return the permissions of each file in a folder."""
    return {file.name: mode_of(file) for file in folder.iterdir()}


def mode_of(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def everything_about(error: BaseException) -> str:
    """Return the error, its chain and its traceback as a logger writes them."""
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pa55@h:port/d",
        "postgresql://u:pa55@h:65536/d",
        "postgresql://u:pa55@h/d?no_such_option=1",
        "postgresql://u:pa55@h/d?loop=1",
        "postgresql://u:pa55@h/d?timeout=soon",
        "postgresql://u:pa55@h/d?timeout=0",
        "postgresql://u:pa55@h/d?command_timeout=1&command_timeout=2",
        "postgresql://u:pa55@h/d?statement_cache_size=0.5",
        "postgresql://u:pa55@h/d?prepared_statement_cache_size=many",
        "sqlite:///a\0b",
        "sqlite:///zotify.db?timeout=soon",
        "sqlite:///zotify.db?timeout=1&timeout=2",
        "sqlite:///zotify.db?cached_statements=99999999999999999999",
        "sqlite:///zotify.db?mode=ro",
        "sqlite:///zotify.db?uri=perhaps",
        "",
    ],
)
def test_a_url_that_the_driver_would_choke_on_is_refused(url: str) -> None:
    """At once, and without the password in the error or in its chain."""
    with pytest.raises(InvalidValue) as refused:
        database.create_engine(url)
    assert refused.value.field == "url"
    assert "pa55" not in "".join(traceback.format_exception(refused.value))
    assert refused.value.__context__ is None


def test_sqlite_has_no_pooler() -> None:
    """What makes no sense is refused rather than ignored."""
    with pytest.raises(InvalidValue, match="pgbouncer"):
        database.create_engine("sqlite:///zotify.db", pgbouncer=True)


def test_an_option_that_sqlalchemy_does_not_know_is_its_error() -> None:
    """Options are SQLAlchemy's, and so is what it says of them."""
    with pytest.raises(TypeError, match="no_such_option"):
        database.create_engine("sqlite:///zotify.db", no_such_option=1)


async def test_changes_that_were_not_flushed_are_not_read_over(url: str) -> None:
    """Also in a session that does not flush by itself."""
    engine = database.create_engine(url)
    sessions = async_sessionmaker(engine, expire_on_commit=False, autoflush=False)
    async with sessions.begin() as db:
        job = await crud.create_download_job(db, new_job("before"))
        job.track_id = "after"
        assert [found.track_id for found in await crud.get_all_download_jobs(db)] == ["after"]
    assert job.track_id == "after"
    await engine.dispose()


async def test_null_passes_through_the_column_types(sessions: Sessions) -> None:
    """An application's own nullable columns may have the library's types."""
    types = (UTCDateTime(), Real(), SealedText("a_table.a_column"), StoredText())
    nothing = select(*(literal(None, type_) for type_ in types))
    async with sessions() as db:
        assert (await db.execute(nothing)).one() == tuple(None for _ in types)


@only_sqlite
@pytest.mark.parametrize("level", ["SERIALIZABLE", "AUTOCOMMIT"])
async def test_the_driver_begins_nothing_by_itself(engine: AsyncEngine, level: str) -> None:
    """Neither on a new connection nor after a use with an isolation level of its own."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level=level)
        await connection.execute(select(1))
    async with engine.connect() as connection:
        await connection.execute(select(1))
        await connection.exec_driver_sql("COMMIT")
        await connection.exec_driver_sql("INSERT INTO tracks (id) VALUES ('t')")
        driver: Any = (await connection.get_raw_connection()).driver_connection
        assert not driver.in_transaction


@pytest.mark.parametrize("default", [None, "sqlite:///elsewhere.db"], ids=["none", "another"])
async def test_a_session_may_have_an_engine_for_these_tables_alone(
    engine: AsyncEngine, default: str | None
) -> None:
    """Statements go there, and the token is encrypted by that engine's keys."""
    elsewhere = database.create_engine(default) if default else None
    sessions = async_sessionmaker(elsewhere, binds={Base: engine}, expire_on_commit=False)
    async with sessions.begin() as db:
        await crud.create_or_update_playlist(db, "p", "P", ["t", "s"])
        await crud.create_download_jobs(db, ["t", "s"])
        await crud.create_or_update_spotify_token(db, token_data())
        await crud.create_or_update_spotify_token(db, token_data(refresh_token=None))
        assert await crud.rotate_token_keys(db) is False
    async with sessions.begin() as db:
        assert [track.id async for track in crud.stream_playlist_tracks(db, "p")] == ["t", "s"]
        claims = await crud.claim_download_jobs(db, worker_id="w", limit=2, lease=60)
    assert [claim.track_id for claim in claims] == ["t", "s"]
    token = await get_valid_spotify_token(sessions, refresh=no_refresh)
    assert token.access_token == "access-1"
    if elsewhere:
        await elsewhere.dispose()


async def no_refresh(refresh_token: str) -> dict[str, Any]:
    """Be asked by nobody."""
    raise AssertionError
