"""Several who upgrade at once, and others who use the tables meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.conftest import DATABASES
from tests.migrations.recorded import recorded, written
from tests.migrations.test_revisions import fill, stored
from tests.support.databases import new_database
from tests.support.processes import REPOSITORY
from tests.support.schema import description_of
from zotify_async_crud import database, errors, migrations
from zotify_async_crud._dialects import postgresql_schema
from zotify_async_crud.migrations import _changes
from zotify_async_crud.migrations._checks import check_parts

Change = Callable[[AsyncEngine, str], Awaitable[None]]

ROUNDS: Final = 20
PROCESSES: Final = 3
HEAD: Final = migrations.newest_revision()
LIMIT: Final = 5.0
"""Seconds that a statement, or a transaction, may take where that is limited."""


@contextlib.asynccontextmanager
async def upgrader() -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process that upgrades what it is told."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.migrations.upgrader"),
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


def tell(process: asyncio.subprocess.Process, url: str) -> None:
    """Let *process* upgrade the database at *url*."""
    assert process.stdin is not None
    process.stdin.write(f"{url}\n".encode())


async def answer(process: asyncio.subprocess.Process) -> str:
    """Return the revision that *process* found in the end."""
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


@pytest.mark.parametrize("name", DATABASES)
async def test_three_processes_upgrade_a_new_database_at_the_same_moment(
    name: str, tmp_path: Path, postgresql_server: str
) -> None:
    """As the workers of a web service do at its first start: twenty times, and no error."""
    async with contextlib.AsyncExitStack() as running:
        processes = [await running.enter_async_context(upgrader()) for _ in range(PROCESSES)]
        for _ in range(ROUNDS):
            async with new_database(name, tmp_path, postgresql_server) as url:
                for process in processes:
                    tell(process, url)

                found = [await answer(process) for process in processes]

                assert found == [HEAD] * PROCESSES
                engine = database.create_engine(url)
                assert written(await description_of(engine)) == recorded(engine, HEAD)
                await engine.dispose()


async def test_tasks_and_threads_of_one_process_may_upgrade_different_databases(
    tmp_path: Path, empty_url: str
) -> None:
    """Alembic's operations are global to a process, and must not be mixed up."""
    urls = [empty_url, *(f"sqlite+aiosqlite:///{tmp_path / f'{n}.db'}" for n in range(4))]
    engines = [database.create_engine(url) for url in urls for _ in range(2)]
    elsewhere = f"sqlite+aiosqlite:///{tmp_path / 'thread.db'}"
    thread = threading.Thread(target=lambda: asyncio.run(upgrade_and_down_again(elsewhere)))
    thread.start()

    await asyncio.gather(*map(migrations.upgrade, engines))

    await asyncio.to_thread(thread.join)
    engines.append(database.create_engine(elsewhere))
    for engine in engines:
        assert written(await description_of(engine)) == recorded(engine, HEAD)
        await engine.dispose()


async def upgrade_and_down_again(url: str) -> None:
    """Keep Alembic busy."""
    engine = database.create_engine(url)
    for revision in ("0001", "0002", "base"):
        await migrations.upgrade(engine)
        await migrations.downgrade(engine, revision)
    await migrations.upgrade(engine)
    await engine.dispose()


async def test_an_upgrade_that_is_broken_off_goes_on_at_the_next_call(
    empty_engine: AsyncEngine,
) -> None:
    """Wherever it was cancelled, nothing is half done and nothing is lost."""
    await migrations.upgrade(empty_engine, "0001")
    await fill(empty_engine)
    kept = await stored(empty_engine)
    cancelled = 0
    for tick in range(1, 200):
        upgrading = asyncio.create_task(migrations.upgrade(empty_engine))
        for _ in range(tick):
            await asyncio.sleep(0)
        upgrading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await upgrading
        cancelled += upgrading.cancelled()

        revision = str(await migrations.current_revision(empty_engine))
        if not upgrading.cancelled():
            break
        if revision != HEAD:  # else the index may be there already, and valid or not
            assert await stored(empty_engine) == kept
        await assert_foreign_keys_are_on(empty_engine)

    await migrations.upgrade(empty_engine)
    assert cancelled > 10
    assert written(await description_of(empty_engine)) == recorded(empty_engine, HEAD)
    assert await stored(empty_engine) == kept


async def assert_foreign_keys_are_on(engine: AsyncEngine) -> None:
    """A connection on which they are still off would keep the entries of a deleted playlist."""
    async with engine.connect() as connection:
        await connection.execute(text("DELETE FROM playlists"))
        assert not await connection.scalar(text("SELECT count(*) FROM playlist_tracks"))
        await connection.rollback()


@pytest.mark.parametrize("change", ["CREATE TABLE", "ALTER TABLE", "DROP TABLE"])
async def test_a_cancellation_is_told_as_one(empty_engine: AsyncEngine, change: str) -> None:
    """Also where Alembic cleans up after it, and fails."""
    await migrations.upgrade(empty_engine, "0001")
    upgrading = asyncio.create_task(migrations.upgrade(empty_engine))

    @event.listens_for(empty_engine.sync_engine, "before_cursor_execute")
    def cancel(_: object, __: object, statement: str, *___: object) -> None:
        if statement.strip().startswith(change):
            upgrading.cancel()

    (outcome,) = await asyncio.gather(upgrading, return_exceptions=True)

    event.remove(empty_engine.sync_engine, "before_cursor_execute", cancel)
    assert outcome is None or isinstance(outcome, asyncio.CancelledError)
    await migrations.upgrade(empty_engine)
    assert written(await description_of(empty_engine)) == recorded(empty_engine, HEAD)


@pytest.fixture
async def postgresql_empty(tmp_path: Path, postgresql_server: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a new database of PostgreSQL."""
    async with new_database("postgresql", tmp_path, postgresql_server) as url:
        engine = database.create_engine(url)
        yield engine
        await engine.dispose()


async def test_an_upgrade_that_waits_for_a_table_lets_others_pass(
    postgresql_empty: AsyncEngine,
) -> None:
    """Who wants to change a table keeps all others waiting behind it, and so gives up soon."""
    await migrations.upgrade(postgresql_empty, "0001")
    async with postgresql_empty.connect() as reader:
        await reader.execute(text("SELECT * FROM spotify_tokens"))  # and keeps its lock
        upgrading = asyncio.create_task(migrations.upgrade(postgresql_empty))
        for _ in range(20):
            async with postgresql_empty.begin() as other:
                await other.execute(text("SELECT * FROM spotify_tokens"))
            await asyncio.sleep(0.1)
        assert not upgrading.done()
        assert await migrations.current_revision(postgresql_empty) == "0001"

    await upgrading
    await migrations.check_schema(postgresql_empty)


async def test_an_upgrade_gives_up_when_others_keep_the_table(
    postgresql_empty: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten transaction must not hang a deployment for ever."""
    monkeypatch.setattr(_changes, "PATIENCE", 0.0)
    await migrations.upgrade(postgresql_empty, "0001")
    async with postgresql_empty.connect() as reader:
        await reader.execute(text("SELECT * FROM spotify_tokens"))
        with pytest.raises(errors.TransactionConflict) as caught:
            await migrations.upgrade(postgresql_empty)
    assert caught.value.code == "55P03"
    assert caught.value.retry_safe


@pytest.mark.parametrize(
    ("change", "statement"),
    [
        (migrations.upgrade, "INSERT INTO download_jobs (job_id, track_id) VALUES ('1', 't')"),
        (migrations.upgrade, "SELECT * FROM download_jobs"),
        (migrations.upgrade, "SELECT * FROM tracks"),  # and keeps its snapshot
        (migrations.downgrade, "SELECT * FROM download_jobs"),
    ],
)
async def test_all_who_change_an_index_give_up_when_a_transaction_is_left_open(
    postgresql_empty: AsyncEngine, monkeypatch: pytest.MonkeyPatch, change: Change, statement: str
) -> None:
    """Also who waits for the one that waits for it; and the next call goes on."""
    old, new = ("0002", HEAD) if change is migrations.upgrade else (HEAD, "0002")
    monkeypatch.setattr(_changes, "PATIENCE", 1.0)
    await migrations.upgrade(postgresql_empty, old)
    async with postgresql_empty.connect() as forgotten:
        await forgotten.execution_options(isolation_level="REPEATABLE READ")
        await forgotten.execute(text(statement))
        async with asyncio.timeout(60):
            changes = [change(postgresql_empty, new) for _ in range(3)]
            outcomes = await asyncio.gather(*changes, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [errors.TransactionConflict] * 3
        assert await migrations.current_revision(postgresql_empty) == old

    await change(postgresql_empty, new)
    assert written(await description_of(postgresql_empty)) == recorded(postgresql_empty, new)


async def test_workers_write_while_an_index_is_built(postgresql_empty: AsyncEngine) -> None:
    """A writer that is in the middle of its transaction keeps the index waiting, and no writer."""
    await migrations.upgrade(postgresql_empty, "0002")
    add = text("INSERT INTO download_jobs (job_id, track_id) VALUES (:id, 't')")
    async with postgresql_empty.connect() as writer:
        await writer.execute(add, {"id": "1"})
        upgrading = asyncio.create_task(migrations.upgrade(postgresql_empty))
        await until_an_index_is_built(postgresql_empty)

        async with postgresql_empty.begin() as other:
            await other.execute(add, {"id": "2"})

        assert not upgrading.done()
        await writer.commit()
    await upgrading
    assert await migrations.current_revision(postgresql_empty) == HEAD


async def until_an_index_is_built(engine: AsyncEngine) -> None:
    """Wait until the server works at one, and waits for those who are writing."""
    working = text(
        "SELECT count(*) FROM pg_stat_progress_create_index"
        " WHERE phase = 'waiting for writers before build'"
    )
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        while not await connection.scalar(working):  # noqa: ASYNC110 - it is the server that works
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "setting",
    [
        "idle_in_transaction_session_timeout",
        "lock_timeout",
        "statement_timeout",
        "transaction_timeout",  # unknown before PostgreSQL 17
    ],
)
async def test_building_an_index_may_take_longer_than_a_statement(
    postgresql_empty: AsyncEngine, setting: str
) -> None:
    """The times that an engine and a server give are for what a caller waits for."""
    await migrations.upgrade(postgresql_empty, "0002")
    limits = await limited(postgresql_empty, setting)
    hasty = database.create_engine(
        postgresql_empty.url, connect_args={"command_timeout": LIMIT}, pool_size=1, max_overflow=0
    )
    async with postgresql_empty.connect() as writer:
        await writer.execute(text("INSERT INTO download_jobs (job_id, track_id) VALUES (1, 't')"))
        upgrading = asyncio.create_task(migrations.upgrade(hasty))
        await until_an_index_is_built(postgresql_empty)
        await asyncio.sleep(LIMIT + 1)
        assert not upgrading.done()
    await upgrading
    await migrations.check_schema(hasty)
    assert await limits_of(hasty) == limits
    await hasty.dispose()


async def limited(engine: AsyncEngine, setting: str) -> dict[str, str]:
    """Let sessions have no more than that from now on, and return the limits of such a session."""
    assert engine.url.database is not None
    async with engine.begin() as connection:
        if setting in await limits_of(engine):
            statement = f"ALTER DATABASE {engine.url.database} SET {setting} = '{LIMIT:.0f}s'"
            await connection.execute(text(statement))
    another = database.create_engine(engine.url)
    limits = await limits_of(another)
    await another.dispose()
    return limits


async def limits_of(engine: AsyncEngine) -> dict[str, str]:
    """Return the times that a session has."""
    found = text("SELECT name, setting FROM pg_settings WHERE name LIKE '%\\_timeout'")
    async with engine.connect() as connection:
        return {row.name: row.setting for row in await connection.execute(found)}


async def test_an_invalid_index_is_built_anew(postgresql_empty: AsyncEngine) -> None:
    """What was broken off slows writers down, and helps no reader."""
    await migrations.upgrade(postgresql_empty, "0002")
    hasty = database.create_engine(postgresql_empty.url)
    async with postgresql_empty.connect() as writer:
        await writer.execute(text("INSERT INTO download_jobs (job_id, track_id) VALUES (1, 't')"))
        upgrading = asyncio.create_task(migrations.upgrade(hasty))
        await until_an_index_is_built(postgresql_empty)
        upgrading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upgrading
    found = await description_of(postgresql_empty)
    assert any(line.endswith("INVALID") for line in found["download_jobs"])
    with pytest.raises(errors.SchemaMismatch, match=r"download_jobs\.ix_download_jobs_cancelled,"):
        await check_parts(postgresql_empty)

    await migrations.upgrade(hasty)

    assert written(await description_of(hasty)) == recorded(hasty, HEAD)
    await hasty.dispose()


@pytest.mark.parametrize(
    ("before", "change", "to", "built"),
    [
        ("0003", migrations.upgrade, "0004", "_at ON download_jobs (created_at)"),
        ("0004", migrations.downgrade, "0003", " ON download_jobs (created_at, job_id)"),
    ],
    ids=["up", "down"],
)
async def test_an_index_is_replaced_also_where_that_was_broken_off_in_between(
    postgresql_empty: AsyncEngine, before: str, change: Change, to: str, built: str
) -> None:
    """The new one stands, and the old one, too: it is not built again, and nobody was without."""
    await migrations.upgrade(postgresql_empty, before)
    async with postgresql_empty.begin() as connection:
        await connection.execute(text(f"CREATE INDEX ix_download_jobs_created{built}"))
    name = "ix_download_jobs_created" + built.partition(" ON")[0]
    number = text(f"SELECT CAST(CAST('{name}' AS regclass) AS oid)")
    async with postgresql_empty.connect() as connection:
        built_before = await connection.scalar(number)

    await change(postgresql_empty, to)

    async with postgresql_empty.connect() as connection:
        assert await connection.scalar(number) == built_before
    assert written(await description_of(postgresql_empty)) == recorded(postgresql_empty, to)


async def test_an_upgrade_whose_connection_is_lost_goes_on_at_the_next_call(
    postgresql_empty: AsyncEngine,
) -> None:
    """The server ends its process, as in a shutdown, while it works at an index."""
    await migrations.upgrade(postgresql_empty, "0002")
    async with postgresql_empty.connect() as writer:
        await writer.execute(text("INSERT INTO download_jobs (job_id, track_id) VALUES (1, 't')"))
        upgrading = asyncio.create_task(migrations.upgrade(postgresql_empty))
        await until_an_index_is_built(postgresql_empty)
        await writer.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
        )
        with pytest.raises(errors.DatabaseUnavailable):
            await upgrading

    await migrations.upgrade(postgresql_empty)
    assert written(await description_of(postgresql_empty)) == recorded(postgresql_empty, HEAD)


async def test_an_upgrade_takes_one_connection_of_the_pool(postgresql_empty: AsyncEngine) -> None:
    """The lock that all who upgrade wait for is on one beside it."""
    engine = database.create_engine(postgresql_empty.url, pool_size=1, max_overflow=0)
    await migrations.upgrade(engine)
    await migrations.check_schema(engine)
    await engine.dispose()


async def test_who_waits_for_its_turn_has_no_snapshot(
    postgresql_empty: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that is built concurrently would wait for it, and it for the index."""
    monkeypatch.setattr(postgresql_schema, "_PAUSE", 0.001)
    await migrations.upgrade(postgresql_empty, "0002")
    async with postgresql_empty.connect() as writer:
        await writer.execute(text("INSERT INTO download_jobs (job_id, track_id) VALUES (1, 't')"))
        both = [asyncio.create_task(migrations.upgrade(postgresql_empty)) for _ in range(2)]
        await until_an_index_is_built(postgresql_empty)
    await asyncio.gather(*both)
    await migrations.check_schema(postgresql_empty)
