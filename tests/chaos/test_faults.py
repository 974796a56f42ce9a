"""Workers and servers that die, hang and come back while they have work."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.chaos.crew import SCALE, Crew, Ledger
from tests.chaos.worker import LEASE, POISON, STARVING
from tests.support.factories import Sessions
from tests.support.postgresql import EmbeddedServer
from zotify_async_crud import database, migrations
from zotify_async_crud.schemas import DownloadJobStatus

KILLS = 20 * SCALE
PAUSES = 10 * SCALE
CRASHES = 5 * SCALE


@pytest.fixture
async def ledger(sessions: Sessions) -> AsyncIterator[Ledger]:
    """An empty ledger on the test's database."""
    ledger = Ledger(sessions)
    await ledger.open()
    yield ledger
    await ledger.close()


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server that nobody else uses, to crash."""
    with tempfile.TemporaryDirectory(prefix="zpg-") as folder:
        server = EmbeddedServer(Path(folder))
        server.start()
        yield server
        server.stop()


async def test_no_job_is_lost_when_workers_are_killed(url: str, ledger: Ledger) -> None:
    """Each job ends once, whoever held it when the kernel killed him."""
    async with Crew(url, size=3) as crew:
        for _ in range(KILLS):
            await asyncio.sleep(random.uniform(0.1, 0.5))
            await crew.kill_one(ledger.keep_busy)
        await ledger.until_finished(crew.replace_the_dead)
    await ledger.check()


async def _pause_workers(crew: Crew, ledger: Ledger) -> None:
    for _ in range(PAUSES // 2):
        # at the same time, so that it takes half as long
        await crew.pause(2, 2 * LEASE, ledger.keep_busy)
        await asyncio.sleep(0.3)
    await ledger.until_finished()


async def test_a_worker_that_was_paused_overwrites_nothing(url: str, ledger: Ledger) -> None:
    """Its jobs are others' by then, and what it still writes is refused."""
    async with Crew(url, size=4) as crew:
        await crew.ready()
        await _pause_workers(crew, ledger)
    await ledger.check()


# "without its job" is a job that was given back after its end, and is not done once more yet
_OVERWRITTEN = r"completed twice|claimed again|without its job|held one attempt"


async def _pause_until_wrong(crew: Crew, ledger: Ledger) -> None:
    while True:  # on a slow machine nobody may have written too late yet
        await _pause_workers(crew, ledger)
        await ledger.check()


async def test_without_its_fence_a_worker_that_was_paused_does_overwrite(
    url: str, ledger: Ledger
) -> None:
    """The control: what the harness looks for is there to be found."""
    async with Crew(url, size=4, unfenced=True) as crew:
        await crew.ready()
        with pytest.raises(AssertionError, match=_OVERWRITTEN):
            await _pause_until_wrong(crew, ledger)


async def test_a_job_that_kills_its_workers_ends_failed(url: str, ledger: Ledger) -> None:
    """Each death costs it an attempt; the jobs beside it are completed by those who come after."""
    await ledger.enqueue(20)
    await ledger.enqueue(track_id=POISON, max_attempts=3)
    await ledger.enqueue(20)
    async with Crew(url, size=2) as crew:
        await ledger.until_finished(crew.replace_the_dead)
    assert await ledger.statuses() == {
        DownloadJobStatus.COMPLETED: 40,
        DownloadJobStatus.FAILED: 1,
    }
    await ledger.check()


async def test_a_handler_that_blocks_the_loop_loses_its_job(url: str, ledger: Ledger) -> None:
    """Another worker does it meanwhile, and the late result is refused."""
    await ledger.enqueue(track_id=STARVING)
    await ledger.enqueue(50)
    async with Crew(url, size=2) as crew:
        await crew.ready()  # or one could be asked to stop before it knows how
        await ledger.until_finished()
        await asyncio.sleep(2 * LEASE)  # the late result comes after the end of the job
        await crew.end()
    await ledger.check()


async def test_workers_that_are_asked_to_stop_leave_nothing_behind(
    url: str, ledger: Ledger, sessions: Sessions
) -> None:
    """What has begun ends, and what has not is given back."""
    await ledger.enqueue(500)
    async with Crew(url, size=2) as crew:
        await crew.ready()
        await crew.end()
    left = await ledger.statuses()
    assert left.keys() <= {DownloadJobStatus.PENDING, DownloadJobStatus.COMPLETED}

    async with Crew(url, size=2):
        await ledger.until_finished()
    await ledger.check()


async def test_six_processes_share_one_file(tmp_path: Path, sqlite_template: Path) -> None:
    """None is refused, nothing is lost, and the file is whole."""
    path = tmp_path / "shared.db"
    shutil.copy(sqlite_template, path)
    engine = database.create_engine(f"sqlite:///{path}")
    ledger = Ledger(database.create_session_factory(engine))
    await ledger.open()
    async with Crew(f"sqlite:///{path}", size=6) as crew:
        await crew.ready()  # or one could be asked to stop before it knows how
        await ledger.enqueue(600)
        await ledger.until_finished()
        await crew.end()
    await ledger.check()
    assert await _ask(engine, "PRAGMA integrity_check") == "ok"
    await engine.dispose()


async def test_no_job_is_lost_when_the_server_crashes(own_server: EmbeddedServer) -> None:
    """The pools wait for it to come back, and go on; what was acknowledged is there."""
    engine = database.create_engine(own_server.url)
    await migrations.upgrade(engine)
    ledger = Ledger(database.create_session_factory(engine))
    await ledger.open()
    async with Crew(own_server.url, size=3) as crew:
        for _ in range(CRASHES):
            await ledger.keep_busy()
            await asyncio.sleep(random.uniform(0.5, 1))
            await asyncio.to_thread(own_server.stop, signal.SIGQUIT)
            await asyncio.to_thread(own_server.start)
            await engine.dispose()
        await ledger.until_finished(crew.replace_the_dead)
    await ledger.check()
    await engine.dispose()


async def test_no_job_is_lost_when_connections_are_cut(own_server: EmbeddedServer) -> None:
    """Each pool opens another and goes on, its listener too."""
    engine = database.create_engine(own_server.url)
    await migrations.upgrade(engine)
    ledger = Ledger(database.create_session_factory(engine))
    await ledger.open()
    async with Crew(own_server.url, size=3):
        for _ in range(10 * SCALE):
            await ledger.keep_busy()
            await asyncio.sleep(0.2)
            await _ask(engine, _CUT)
        await ledger.until_finished()
    await ledger.check()
    await engine.dispose()


_CUT = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'zotify_async_crud' AND pid <> pg_backend_pid()
"""


async def _ask(engine: AsyncEngine, question: str) -> object:
    async with engine.connect() as connection:
        return await connection.scalar(text(question))
