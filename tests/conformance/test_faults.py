"""Faults: each becomes the error that says what the caller can do, and nothing is left behind."""

# ruff: noqa: PT012 - what fails is a whole transaction, with what it did before

from __future__ import annotations

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from sqlalchemy import event, insert, make_url, select, text
from sqlalchemy import exc as sa_exc
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tests.support.factories import (
    Sessions,
    add_job,
    new_job,
    statements_sent,
    stored_job,
    token_data,
)
from tests.support.faults import (
    apart,
    begin_deferred,
    file_of,
    is_sqlite,
    kill,
    only_postgresql,
    only_sqlite,
    server_process_of,
    until_succeeding,
    until_waiting_for_lock,
    writer_of,
)
from tests.support.postgresql import EmbeddedServer
from zotify_async_crud import crud, database, events, migrations
from zotify_async_crud._dialects.postgresql import CHANNEL
from zotify_async_crud.errors import (
    AccessRefused,
    ConstraintViolated,
    DatabaseError,
    DatabaseUnavailable,
    OutcomeUnknown,
    SchemaMismatch,
    TransactionConflict,
)
from zotify_async_crud.models import DownloadJob, PlaylistTrack
from zotify_async_crud.schemas import DownloadJobStatus

FAILED: Final = DownloadJobStatus.FAILED
COMPLETED: Final = DownloadJobStatus.COMPLETED


@contextlib.asynccontextmanager
async def sessions_at(url: str, **options: Any) -> AsyncIterator[Sessions]:
    """Sessions on an engine of their own, made by the library."""
    engine = database.create_engine(url, **options)
    try:
        yield database.create_session_factory(engine)
    finally:
        await engine.dispose()


async def failure_of_reading(url: str, **options: Any) -> DatabaseError:
    """Return the error that a coroutine ends with at *url*."""
    async with sessions_at(url, **options) as sessions:
        with pytest.raises(DatabaseError) as failed:
            async with sessions.begin() as db:
                await crud.get_all_download_jobs(db)
        return failed.value


# the database cannot be reached or refuses


@pytest.mark.parametrize(
    "url",
    ["postgresql://u@127.0.0.1:1/d", "postgresql://u@/d?host=/nowhere/at/all"],
    ids=["no server at the port", "no server at the socket"],
)
async def test_a_server_that_is_not_there_is_unavailable(url: str) -> None:
    """Another try is safe and may succeed later."""
    error = await failure_of_reading(url)
    assert isinstance(error, DatabaseUnavailable)
    assert error.retry_safe


@only_postgresql
@pytest.mark.parametrize(("user", "name"), [("postgres", "nowhere"), ("nobody", "postgres")])
async def test_a_database_or_user_that_is_unknown_is_refused(
    url: str, user: str, name: str
) -> None:
    """Another try cannot help."""
    there = make_url(url).set(username=user, database=name)
    error = await failure_of_reading(there.render_as_string(hide_password=False))
    assert isinstance(error, AccessRefused)
    assert not error.retry_safe
    assert error.code in {"3D000", "28000"}


@pytest.mark.parametrize("path", ["missing/zotify.db", "folder", "text.db"])
async def test_a_path_that_holds_no_database_is_refused(tmp_path: Path, path: str) -> None:
    """A folder that is missing, a folder in its place, and a file that is something else."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.db").write_text("This is no database, but a text that is long enough." * 20)
    error = await failure_of_reading(f"sqlite:///{tmp_path / path}")
    assert isinstance(error, AccessRefused)
    assert not error.retry_safe


@only_sqlite
async def test_a_file_that_may_only_be_read_refuses_a_write(url: str) -> None:
    """Also where the file system would allow it."""
    read_only = f"sqlite:///file:{file_of(url)}?mode=ro&uri=true"
    async with sessions_at(read_only) as sessions:
        with pytest.raises(AccessRefused, match="readonly"):
            async with sessions.begin() as db:
                await crud.create_download_job(db, new_job())


async def test_missing_tables_are_a_mismatch_of_the_schema(url: str, tmp_path: Path) -> None:
    """The message names the function that creates them."""
    if make_url(url).get_backend_name() == "sqlite":
        error = await failure_of_reading(f"sqlite:///{tmp_path / 'empty.db'}")
    else:
        elsewhere = {"server_settings": {"search_path": "pg_catalog"}}
        error = await failure_of_reading(url, connect_args=elsewhere)
    assert isinstance(error, SchemaMismatch)
    assert "check_schema" in str(error)


async def test_an_exhausted_pool_is_unavailable(url: str) -> None:
    """The connection that was waited for comes back with the session that holds it."""
    async with sessions_at(url, pool_size=1, max_overflow=0, pool_timeout=0.2) as sessions:
        async with sessions.begin() as holder:
            await crud.get_all_download_jobs(holder)
            with pytest.raises(DatabaseUnavailable) as exhausted:
                async with sessions.begin() as db:
                    await crud.get_all_download_jobs(db)
        assert exhausted.value.retry_safe
        async with sessions.begin() as db:
            assert await crud.get_all_download_jobs(db) == []


# another transaction is in the way


@only_postgresql
async def test_of_two_transactions_in_a_deadlock_one_goes_on(sessions: Sessions) -> None:
    """The other one is told to run again, and then succeeds."""
    jobs = [await add_job(sessions, "first"), await add_job(sessions, "second")]
    both_hold_one = asyncio.Barrier(2)

    async def update_in_order(*order: int) -> None:
        async with sessions.begin() as db:
            for number in order:
                await crud.update_download_job_status(db, jobs[number], FAILED, f"{order}")
                if number == order[0]:
                    await both_hold_one.wait()

    ends = await asyncio.gather(
        update_in_order(0, 1), update_in_order(1, 0), return_exceptions=True
    )
    (conflict,) = [end for end in ends if end is not None]
    assert isinstance(conflict, TransactionConflict)
    assert conflict.retry_safe
    assert conflict.code == "40P01"
    winner = (0, 1) if ends[0] is None else (1, 0)
    for job in jobs:
        assert (await stored_job(sessions, job.job_id)).error_message == f"{winner}"


@only_postgresql
async def test_an_update_of_what_has_changed_conflicts_where_transactions_are_serializable(
    url: str, sessions: Sessions
) -> None:
    """The coroutine itself says so."""
    job = await add_job(sessions)
    async with sessions_at(url, isolation_level="SERIALIZABLE") as serializable:
        with pytest.raises(TransactionConflict) as conflict:
            async with serializable.begin() as db:
                await crud.get_all_download_jobs(db)
                async with sessions.begin() as other:
                    await crud.update_download_job_status(other, job, COMPLETED)
                await crud.update_download_job_status(db, job, FAILED)
    assert conflict.value.code == "40001"
    assert (await stored_job(sessions, job.job_id)).status is COMPLETED


@only_postgresql
async def test_a_commit_that_cannot_be_serialized_is_a_conflict(url: str) -> None:
    """Two transactions that each count the jobs and add one cannot both have been the first."""
    async with sessions_at(url, isolation_level="SERIALIZABLE") as serializable:
        with pytest.raises(TransactionConflict) as conflict, database.translated_errors():
            async with serializable.begin() as db:
                assert await crud.get_all_download_jobs(db) == []
                async with serializable.begin() as other:
                    assert await crud.get_all_download_jobs(other) == []
                    await crud.create_download_job(other, new_job())
                await crud.create_download_job(db, new_job())
        assert conflict.value.retry_safe
        async with serializable.begin() as db:
            assert len(await crud.get_all_download_jobs(db)) == 1


@only_sqlite
async def test_a_file_that_stays_locked_is_a_conflict(url: str) -> None:
    """After the busy timeout, and only for as long as the other writer takes."""
    async with sessions_at(url, connect_args={"timeout": 0.1}) as sessions:
        with writer_of(url), pytest.raises(TransactionConflict) as conflict:
            async with sessions.begin() as db:
                await crud.create_download_job(db, new_job())
        assert conflict.value.retry_safe
        assert conflict.value.code == "SQLITE_BUSY"
        await add_job(sessions)


@only_sqlite
async def test_a_snapshot_that_is_out_of_date_is_a_conflict(url: str) -> None:
    """A transaction that began by reading cannot write once another one has."""
    engine = create_async_engine(url)
    begin_deferred(engine)
    readers = database.create_session_factory(engine)
    with pytest.raises(TransactionConflict) as conflict:
        async with readers.begin() as db:
            await crud.get_all_download_jobs(db)
            with writer_of(url) as other:
                other.execute("INSERT INTO tracks (id) VALUES ('t')")
                other.execute("COMMIT")
            await crud.get_next_pending_download_job(db)
    assert conflict.value.code == "SQLITE_BUSY_SNAPSHOT"
    await engine.dispose()


# a constraint refuses


async def test_an_entry_without_its_track_violates_a_constraint(sessions: Sessions) -> None:
    """Also in statements of the caller's own, where they run inside ``translated_errors``."""
    entry = insert(PlaylistTrack).values(playlist_id="p", position=0, track_id="nowhere")
    with pytest.raises(ConstraintViolated) as violated, database.translated_errors():
        async with sessions.begin() as db:
            await db.execute(entry)
    assert not violated.value.retry_safe
    assert violated.value.code in {"23503", "SQLITE_CONSTRAINT_FOREIGNKEY"}


async def test_a_constraint_of_the_applications_own_refuses_through_a_coroutine(
    sessions: Sessions,
) -> None:
    """A unique index that an application has added, and a job that it forbids."""
    with pytest.raises(ConstraintViolated) as violated:
        async with sessions.begin() as db:
            await db.execute(text("CREATE UNIQUE INDEX once ON download_jobs (track_id)"))
            await crud.create_download_job(db, new_job("same"))
            await crud.create_download_job(db, new_job("same"))
    assert violated.value.code in {"23505", "SQLITE_CONSTRAINT_UNIQUE"}
    async with sessions() as db:
        assert await crud.get_all_download_jobs(db) == []


# a connection is lost


@only_postgresql
async def test_a_transaction_whose_server_process_is_killed_ends_as_unavailable(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """Nothing of it is stored, and the next transaction gets another connection."""
    with pytest.raises(DatabaseUnavailable) as lost:
        async with sessions.begin() as db:
            await crud.create_download_job(db, new_job("lost"))
            await kill(url, await server_process_of(db))
            await crud.create_download_job(db, new_job("lost"))
    assert lost.value.retry_safe
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await add_job(sessions, "next")
    async with sessions() as db:
        assert [job.track_id for job in await crud.get_all_download_jobs(db)] == ["next"]


@only_postgresql
async def test_a_statement_whose_server_process_is_killed_ends_as_unavailable(
    url: str, sessions: Sessions
) -> None:
    """While it runs, and not only when the next one is sent."""
    job = await add_job(sessions)
    processes: asyncio.Queue[int] = asyncio.Queue()

    async def update() -> None:
        async with sessions.begin() as db:
            processes.put_nowait(await server_process_of(db))
            await crud.update_download_job_status(db, job, FAILED)

    async with sessions.begin() as holder:
        await crud.update_download_job_status(holder, job, COMPLETED)
        updating = asyncio.create_task(update())
        process = await processes.get()
        await until_waiting_for_lock(url)
        await kill(url, process)
        with pytest.raises(DatabaseUnavailable):
            await updating
    assert (await stored_job(sessions, job.job_id)).status is COMPLETED


@only_postgresql
async def test_connections_killed_in_the_pool_are_replaced_unnoticed(
    url: str, sessions: Sessions
) -> None:
    """``pool_pre_ping`` finds out before a coroutine does."""
    for _ in range(3):
        async with sessions.begin() as db:
            await crud.create_download_job(db, new_job())
            process = await server_process_of(db)
        await kill(url, process)
    async with sessions() as db:
        assert len(await crud.get_all_download_jobs(db)) == 3


@only_postgresql
async def test_a_connection_lost_during_the_commit_leaves_the_outcome_unknown(
    url: str, sessions: Sessions
) -> None:
    """Only whoever looks can tell; to run the transaction again is not safe."""
    with pytest.raises(OutcomeUnknown) as unknown, database.translated_errors():
        async with sessions.begin() as db:
            await crud.create_download_job(db, new_job())
            await kill(url, await server_process_of(db))
    assert not unknown.value.retry_safe
    assert isinstance(unknown.value.__cause__, sa_exc.DBAPIError)
    async with sessions() as db:
        assert await crud.get_all_download_jobs(db) == []  # it happens to have been in time


def _close(connection: Any) -> None:
    connection.driver_connection.terminate()


def _lose_track(_: Any) -> None:
    # what the driver says to the next statement where it has read that the server process was
    # ended, and not yet that the connection was: which of the two comes first is up to the kernel
    raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2)")


@only_postgresql
@pytest.mark.parametrize("lose", [_close, _lose_track])
async def test_a_connection_lost_while_it_is_set_up_is_unavailable(
    engine: AsyncEngine, sessions: Sessions, lose: Callable[[Any], None]
) -> None:
    """There the driver's errors do not pass through SQLAlchemy; the next transaction goes well."""

    @event.listens_for(engine.sync_engine, "connect", insert=True, once=True)
    def _(connection: Any, __: object) -> None:
        lose(connection)

    await engine.dispose()
    with pytest.raises(DatabaseUnavailable) as failed:
        await add_job(sessions)
    assert failed.value.retry_safe
    await add_job(sessions)


async def test_a_database_that_was_never_reached_has_committed_nothing() -> None:
    """``translated_errors`` does not speak of an unknown outcome where there was no connection."""
    async with sessions_at("postgresql://u@/d?host=/nowhere/at/all") as sessions:
        with pytest.raises(DatabaseUnavailable) as failed, database.translated_errors():
            async with sessions.begin() as db:
                await db.execute(text("SELECT 1"))
        assert failed.value.retry_safe


@pytest.mark.parametrize("error", [OSError, TimeoutError, ConnectionResetError, ValueError])
async def test_an_error_of_the_applications_own_passes_as_it_is(
    sessions: Sessions, error: type[Exception]
) -> None:
    """A download that fails inside the block says nothing about the database."""
    with pytest.raises(error) as passed, database.translated_errors():
        async with sessions.begin() as db:
            await crud.create_download_job(db, new_job())
            raise error("of the application")
    assert type(passed.value) is error
    with pytest.raises(error) as passed, database.translated_errors():
        async with sessions.kw["bind"].begin() as connection:
            await connection.execute(insert(DownloadJob).values(track_id="t"))
            raise error("of the application")
    assert type(passed.value) is error
    async with sessions() as db:
        assert await crud.get_all_download_jobs(db) == []


# a disk is full


@only_sqlite
async def test_a_full_disk_is_unavailable_and_nothing_is_stored(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """A limit of SQLite's own on the size of the file fails as a full disk does."""
    many = [f"track-{number}" for number in range(5_000)]
    with pytest.raises(DatabaseUnavailable) as full:
        async with sessions.begin() as db:
            await crud.create_or_update_playlist(db, "small", "n", ["a"])
            await db.execute(text("PRAGMA max_page_count = 1"))  # which is no less than it has
            await crud.create_or_update_playlist(db, "large", "n", many)
    assert full.value.code == "SQLITE_FULL"
    async with sessions() as db:
        assert await crud.get_playlist(db, "small") is None
    await engine.dispose()  # and with it the connection that has the limit
    async with sessions.begin() as db:
        assert len((await crud.create_or_update_playlist(db, "large", "n", many)).tracks) == 5_000


# a session is closed


async def test_a_closed_session_begins_a_new_transaction(sessions: Sessions) -> None:
    """As every ``AsyncSession`` does by default."""
    db = sessions()
    await crud.create_download_job(db, new_job("dropped"))
    await db.close()
    await crud.create_download_job(db, new_job("kept"))
    await db.commit()
    assert [job.track_id for job in await crud.get_all_download_jobs(db)] == ["kept"]
    await db.close()


async def test_a_session_closed_for_good_says_so_in_sqlalchemys_words(engine: AsyncEngine) -> None:
    """It is a mistake in the program, not a fault of the database."""
    db = AsyncSession(engine, close_resets_only=False)
    await db.close()
    with pytest.raises(sa_exc.InvalidRequestError, match="closed"):
        await crud.get_all_download_jobs(db)


async def test_a_transaction_that_has_failed_says_so_in_sqlalchemys_words(
    sessions: Sessions,
) -> None:
    """After an error the caller rolls back, or uses a savepoint; PostgreSQL takes nothing else."""
    async with sessions() as db:
        with pytest.raises(ConstraintViolated), database.translated_errors():
            await db.execute(text("INSERT INTO tracks (id) VALUES ('')"))
        await db.rollback()
        assert await crud.get_all_download_jobs(db) == []


# a server crashes


@contextlib.contextmanager
def own_server(*settings: str) -> Iterator[EmbeddedServer]:
    """Run a server of one test's own."""
    with tempfile.TemporaryDirectory(prefix="zpg-") as folder:
        server = EmbeddedServer(Path(folder), ("-c", "fsync=off", *settings))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def crashing_server() -> Iterator[EmbeddedServer]:
    """A server of this test's own."""
    with own_server() as server:
        yield server


async def test_jobs_are_enqueued_while_the_queue_of_notifications_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody who listens and keeps a transaction open fills it, in any database of the server."""
    monkeypatch.setattr(events, "_BETWEEN_NOTIFICATIONS", 0.0)  # it is always time for another
    with own_server("-c", "max_notify_queue_pages=64") as server:
        async with sessions_at(server.url) as sessions, apart(server.url) as listener:
            engine: AsyncEngine = sessions.kw["bind"]
            await migrations.upgrade(engine)
            heard = asyncio.Event()
            driver: Any = (await listener.get_raw_connection()).driver_connection
            await driver.add_listener(CHANNEL, lambda *_: heard.set())
            async with events.notifying(engine):
                await add_job(sessions)
                await heard.wait()
                await until_succeeding(engine)
                async with driver.transaction():
                    await driver.execute("SELECT 1")
                    await _fill_notifications(server.url)
                    with statements_sent(engine) as sent:
                        await add_job(sessions)
    assert any("INSERT" in statement and "pg_notify" in statement for statement, _ in sent)


async def _fill_notifications(url: str) -> None:
    fill = "SELECT pg_notify('elsewhere', repeat('x', :size) || n) FROM generate_series(1, 50) AS n"
    async with apart(url) as filler:
        for size in (7_990, 1):  # until not even a short one fits
            with pytest.raises(sa_exc.DBAPIError, match="too many notifications"):
                while True:
                    await filler.execute(text(fill), {"size": size})


async def test_jobs_that_were_acknowledged_survive_a_crash_of_the_server(
    crashing_server: EmbeddedServer,
) -> None:
    """Whoever had no answer is told whether to run again or to look first."""
    acknowledged: list[str] = []
    errors: list[DatabaseError] = []
    progress, stop = asyncio.Event(), asyncio.Event()

    async def enqueue(sessions: Sessions) -> None:
        while not stop.is_set():
            try:
                with database.translated_errors():
                    async with sessions.begin() as db:
                        job = await crud.create_download_job(db, new_job())
                        await crud.update_download_job_status(db, job, FAILED)
            except DatabaseError as error:
                errors.append(error)
                await asyncio.sleep(0.02)  # or the server has no time to come back
            else:
                acknowledged.append(job.job_id)
                progress.set()

    async with (
        sessions_at(crashing_server.url) as sessions,
        asyncio.timeout(240),
        asyncio.TaskGroup() as tasks,
    ):
        await migrations.upgrade(sessions.kw["bind"])
        for _ in range(10):
            tasks.create_task(enqueue(sessions))
        for _ in range(2):
            before = len(acknowledged)
            while len(acknowledged) < before + 50:
                progress.clear()
                await progress.wait()
            await asyncio.to_thread(crashing_server.stop, signal.SIGQUIT)
            await asyncio.to_thread(crashing_server.start)
        before = len(acknowledged)
        while len(acknowledged) < before + 50:
            progress.clear()
            await progress.wait()
        stop.set()

    async with sessions_at(crashing_server.url) as sessions, sessions() as db:
        stored = set((await db.scalars(select(DownloadJob.job_id))).all())
    assert set(acknowledged) <= stored
    assert len(set(acknowledged)) == len(acknowledged)
    unknown = [error for error in errors if isinstance(error, OutcomeUnknown)]
    assert all(error.retry_safe for error in errors if error not in unknown)
    assert len(stored) <= len(acknowledged) + len(unknown)
    assert errors


@pytest.mark.parametrize("parameters", [(), ("a text", "and another")])
async def test_a_misuse_of_the_driver_is_nothing_that_a_retry_mends(
    sessions: Sessions, engine: AsyncEngine, parameters: tuple[str, ...]
) -> None:
    """What is neither the network, nor another transaction, nor the schema."""
    misuse = "SELECT ?" if is_sqlite(engine) else "SELECT $1::int"
    with pytest.raises(DatabaseError) as failed, database.translated_errors():
        async with sessions.begin() as db:
            connection = await db.connection()
            await connection.exec_driver_sql(misuse, parameters)
    assert type(failed.value) is DatabaseError
    assert not failed.value.retry_safe


@only_sqlite
@pytest.mark.parametrize(
    "work",
    [
        lambda db: crud.create_download_job(db, new_job()),
        lambda db: crud.create_or_update_playlist(db, "p", "P", ["t"]),
        lambda db: crud.create_or_update_spotify_token(db, token_data(refresh_token=None)),
    ],
    ids=["job", "playlist", "token"],
)
async def test_a_connection_closed_underneath_is_unavailable(
    sessions: Sessions, work: Callable[[AsyncSession], Awaitable[object]]
) -> None:
    """The next transaction has another one."""
    with pytest.raises(DatabaseUnavailable):
        async with sessions.begin() as db:
            raw = await (await db.connection()).get_raw_connection()
            assert raw.driver_connection is not None
            await raw.driver_connection.close()
            await work(db)
    await add_job(sessions)


async def test_a_detached_connection_is_its_sessions_own(engine: AsyncEngine) -> None:
    """Nobody can share a connection that has left its pool."""
    async with engine.connect() as connection:
        await connection.run_sync(lambda sync: sync.detach())
        async with AsyncSession(connection) as db:
            assert await crud.get_next_pending_download_job(db) is None


@only_postgresql
async def test_a_value_of_the_wrong_type_is_nothing_that_a_retry_mends(sessions: Sessions) -> None:
    """The driver refuses it before the server could, with a code of the server's."""
    with pytest.raises(DatabaseError) as failed, database.translated_errors():
        async with sessions.begin() as db:
            await (await db.connection()).exec_driver_sql("SELECT $1::int", ("a text",))
    assert type(failed.value) is DatabaseError
    assert failed.value.code is not None
