"""Several who adopt at once, others who use the tables meanwhile, and failures in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tests.adoption.original import contents, create_original, entry, execute, insert, job, token
from tests.adoption.test_odd_rows import only_postgresql
from tests.support.databases import new_database
from tests.support.pools import an_engine, drain, statuses
from tests.support.processes import REPOSITORY
from zotify_async_crud import _transactions, database, migrations
from zotify_async_crud.adoption import AdoptionReport, adopt
from zotify_async_crud.errors import DatabaseUnavailable, SchemaMismatch, TransactionConflict


@contextlib.asynccontextmanager
async def adopter() -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process that adopts what it is told."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.adoption.adopter"),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        _, said = await process.communicate(b"")
    assert (process.returncode, said) == (0, b"")


async def answers(url: str, *processes: asyncio.subprocess.Process) -> list[str]:
    """Let all adopt the database at *url* at once; return what they say."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{url}\n".encode())
    said = [await process.stdout.readline() for process in processes if process.stdout]
    return sorted(line.decode().strip() for line in said)


async def fill(engine: AsyncEngine, jobs: int = 100) -> None:
    """Make the original's database, with rows in each table."""
    await create_original(engine)
    await insert(engine, "download_jobs", *(job(f"j{number}") for number in range(jobs)))
    await insert(engine, "tracks", {"id": "a"})
    await insert(engine, "playlists", {"id": "p", "name": "Focus"})
    await insert(engine, "playlist_track_association", entry("p", "a"))
    await insert(engine, "spotify_tokens", token())


async def test_of_two_processes_one_adopts(
    empty_url: str, tmp_path: Path, postgresql_server: str
) -> None:
    """The other one waits, and then finds that there is nothing to do."""
    name = "sqlite" if empty_url.startswith("sqlite") else "postgresql"
    async with adopter() as one, adopter() as other:
        for _ in range(3):
            async with (
                new_database(name, tmp_path, postgresql_server) as url,
                an_engine(url) as engine,
            ):
                await fill(engine)

                assert await answers(url, one, other) == ["100", "nothing"]

                sessions = database.create_session_factory(engine)
                assert await statuses(sessions) == {"pending": 100}


@contextlib.contextmanager
def doing_at(
    engine: AsyncEngine, words: str, action: Callable[[Any], Awaitable[None]]
) -> Iterator[None]:
    """Await *action*, given the driver's connection, before statements that begin with *words*."""

    def act(connection: Any, _: object, statement: str, *__: object) -> None:
        if statement.startswith(words):
            connection.connection.dbapi_connection.run_async(action)

    event.listen(engine.sync_engine, "before_cursor_execute", act)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", act)


@contextlib.contextmanager
def failing_at(engine: AsyncEngine, words: str, error: BaseException) -> Iterator[None]:
    """Raise *error* before the first statement that begins with *words*."""

    async def fail(_: object) -> None:
        raise error

    with doing_at(engine, words, fail):
        yield


STEPS = [
    "CREATE TEMPORARY TABLE zotify_adopted_tracks",
    "\nDROP TABLE download_jobs",
    "\nCREATE TABLE playlist_tracks",
    "INSERT INTO playlist_tracks",
    "INSERT INTO spotify_tokens",
]


@pytest.mark.parametrize(
    ("step", "error"),
    [*((step, RuntimeError) for step in STEPS), (STEPS[-2], asyncio.CancelledError)],
)
async def test_a_failure_in_the_middle_leaves_all_as_it_was(
    empty_engine: AsyncEngine, step: str, error: type[BaseException]
) -> None:
    """Whatever it was, the original can go on, and the next attempt succeeds."""
    await fill(empty_engine)
    before = await contents(empty_engine)

    with failing_at(empty_engine, step, error("enough")), pytest.raises(error):
        await adopt(empty_engine)

    assert await contents(empty_engine) == before
    assert (await adopt(empty_engine)).entries == 1
    await drain(database.create_session_factory(empty_engine))


async def test_what_the_database_says_is_no_refusal(empty_engine: AsyncEngine) -> None:
    """Only what the driver cannot read is, and then it shows nothing of that."""
    await fill(empty_engine)
    before = await contents(empty_engine)

    async def drop(driver: Any) -> None:
        await driver.execute("DROP TABLE spotify_tokens")

    with doing_at(empty_engine, "SELECT id, user_id", drop), pytest.raises(SchemaMismatch):
        await adopt(empty_engine)

    assert await contents(empty_engine) == before


@only_postgresql
@pytest.mark.parametrize("step", ["SELECT id, user_id", "INSERT INTO playlist_tracks"])
async def test_a_lost_connection_leaves_all_as_it_was(
    empty_engine: AsyncEngine, empty_url: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again at once, as often as any transaction is; and it may be tried later."""
    await fill(empty_engine)
    monkeypatch.setattr(_transactions, "PAUSES", ())
    before = await contents(empty_engine)
    killer = create_async_engine(empty_url, poolclass=NullPool)

    async def kill(_: object) -> None:
        async with killer.connect() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            mine = "datname = current_database() AND pid <> pg_backend_pid()"
            await connection.exec_driver_sql(f"{others} WHERE {mine}")

    with doing_at(empty_engine, step, kill), pytest.raises(DatabaseUnavailable):
        await adopt(empty_engine)

    assert await contents(empty_engine) == before
    assert (await adopt(empty_engine)).entries == 1


@only_postgresql
async def test_nobody_writes_what_would_be_lost(empty_engine: AsyncEngine, empty_url: str) -> None:
    """From before the first row is read, the original's writers wait."""
    await fill(empty_engine)
    service = create_async_engine(empty_url, poolclass=NullPool)
    refused = []

    async def write(_: object) -> None:
        async with service.begin() as connection:
            await connection.exec_driver_sql("SET LOCAL lock_timeout = 1")
            with pytest.raises(DBAPIError, match="lock timeout"):
                await connection.exec_driver_sql("UPDATE download_jobs SET error_message = 'lost'")
        refused.append(True)

    with doing_at(empty_engine, "SELECT id, user_id", write):
        await adopt(empty_engine)

    assert refused == [True]


@only_postgresql
async def test_who_uses_a_table_is_not_cut_off(
    empty_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original has to be stopped; a transaction of its own that goes on makes us give up."""
    await fill(empty_engine)
    monkeypatch.setattr(_transactions, "PAUSES", (0.01,))
    async with empty_engine.connect() as service:
        await service.exec_driver_sql("UPDATE tracks SET name = 'n'")

        with pytest.raises(TransactionConflict):
            await adopt(empty_engine)

        await service.commit()
    assert (await adopt(empty_engine)).jobs == {"pending": 100}


async def test_jobs_that_were_added_before_are_adopted(empty_engine: AsyncEngine) -> None:
    """A dry run promises nothing of what the original does afterwards."""
    await fill(empty_engine, jobs=1)
    expected = await adopt(empty_engine, dry_run=True)
    await execute(
        empty_engine,
        "INSERT INTO download_jobs (job_id, track_id, status, progress)"
        " VALUES ('new', 't', 'pending', 0)",
    )

    report = await adopt(empty_engine)

    assert (expected.jobs, report.jobs) == ({"pending": 1}, {"pending": 2})
    assert await adopt(empty_engine) == AdoptionReport(nothing_to_do=True)
    await migrations.check_schema(empty_engine)
