"""``work`` as a process: jobs that get done, and the ways in which it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.cli.programs import run
from tests.cli.services import HANDLERS, Service, counted
from tests.support.factories import Sessions, stored_job
from tests.support.pools import enqueue, statuses, until, until_status
from tests.worker.proxy import proxy
from zotify_async_crud.schemas import DownloadJobStatus

Start: TypeAlias = Callable[..., Service]

LEASE = 5.0  # a shorter one could be over while a slow machine is at the second attempt

either_way = pytest.mark.parametrize(
    ("url", "processes"), [("postgresql", 2), ("sqlite", 1)], indirect=["url"]
)
"""In its own process, or in two others; processes take their time to begin."""


@pytest.fixture
def work(url: str, tmp_path: Path) -> Iterator[Start]:
    """Start the command with a handler and options; none outlives its test."""
    started: list[Service] = []

    def start(handler: str, *options: str, url: str = url) -> Service:
        started.append(Service(tmp_path, url, handler, *options))
        return started[-1]

    yield start
    for service in started:
        service.process.kill()
        service.process.wait()


def is_alive(pid: int) -> bool:
    """Tell whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(
    ("url", "processes"), [("postgresql", 2), ("sqlite", 2), ("sqlite", 1)], indirect=["url"]
)
async def test_it_drains_the_queue(
    url: str, sessions: Sessions, tmp_path: Path, processes: int
) -> None:
    """What it writes to stdout is JSON; the log and what the handler prints go to stderr."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    await enqueue(sessions, 30)
    options = ("--until-idle", "--json", "--processes", str(processes))
    arguments = ("work", "handlers:download", *options)
    finished = await asyncio.to_thread(run, tmp_path, *arguments, ZOTIFY_DATABASE_URL=url)
    assert finished.returncode == 0, finished.stderr
    assert await statuses(sessions) == {"completed": 30}
    done = {"claimed": 30, "completed": 30, "failed": 0, "released": 0, "lost": 0}
    assert finished.stdout.startswith("{")
    assert counted(finished.stdout) == done
    assert finished.stderr.count("downloaded t") == 30
    last = "stopped: 30 claimed, 30 completed, 0 failed, 0 released, 0 lost\n"
    assert finished.stderr.endswith(last)


@either_way
async def test_a_signal_lets_the_jobs_end_that_have_begun(
    sessions: Sessions, work: Start, processes: int
) -> None:
    """It claims no others, and its exit code is 0. Service managers send it to all processes."""
    await enqueue(sessions, processes + 1)
    service = work("hold", "--processes", str(processes), "--concurrency", "1")
    workers = {await service.until_begun(f"t{number}") for number in range(processes)}
    for pid in workers - {service.process.pid}:
        os.kill(pid, signal.SIGTERM)
    await service.ask_to_stop(signal.SIGTERM)
    if processes > 1:  # each has heard of it
        await service.until_written(" ending\n", times=processes)
    service.let_go()
    assert await service.ends() == 0
    assert await statuses(sessions) == {"completed": processes, "pending": 1}
    # another may have been claimed ahead of a free slot, and given back
    assert f" claimed, {processes} completed, 0 failed, " in service.output
    assert ", 0 lost\n" in service.output
    assert "was killed" not in service.output


@either_way
async def test_a_second_signal_gives_the_jobs_back_at_once(
    sessions: Sessions, work: Start, processes: int
) -> None:
    """A job that takes for ever is not waited for."""
    (job_id,) = await enqueue(sessions)
    service = work("hold", "--processes", str(processes))
    await service.until_begun()
    await service.ask_to_stop(signal.SIGINT)
    assert service.process.poll() is None
    await service.ask_to_stop(signal.SIGINT, times=2)
    assert await service.ends() == 0
    assert (await stored_job(sessions, job_id)).status is DownloadJobStatus.PENDING
    assert " 0 completed, 0 failed, " in service.output
    assert "Traceback" not in service.output


async def test_a_process_that_is_killed_is_replaced(sessions: Sessions, work: Start) -> None:
    """The job that it had comes back with its lease, and is done."""
    (job_id,) = await enqueue(sessions)
    service = work("die_at_first", "--processes", "2", "--lease", str(LEASE))
    job = await until_status(sessions, job_id, DownloadJobStatus.COMPLETED)
    assert job.attempt == 2
    await service.until_written(" started: ", times=3)
    await service.ask_to_stop()
    assert await service.ends() == 0
    assert "was killed by signal 9\n" in service.output


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_no_process_outlives_the_one_that_started_it(sessions: Sessions, work: Start) -> None:
    """Each ends what it has begun, as after a signal."""
    (job_id,) = await enqueue(sessions)
    service = work("hold", "--processes", "2")
    pid = await service.until_begun()
    assert pid != service.process.pid
    service.process.kill()
    await service.ends()
    assert is_alive(pid)
    service.let_go()
    await until_status(sessions, job_id, DownloadJobStatus.COMPLETED)

    async def is_over() -> bool:
        return not is_alive(pid)

    await until(is_over)
    assert "Traceback" not in service.output


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_a_database_that_goes_away_is_waited_for(
    url: str, sessions: Sessions, work: Start
) -> None:
    """What is not a line of the log is not written about it."""
    async with proxy(url) as way:
        await way.start()
        service = work("download", "--processes", "2", url=way.url)
        await enqueue(sessions)
        await service.until_written("downloaded t0")
        await way.stop()
        await service.until_written("the database is unavailable")
        await way.start()
        (job_id,) = await enqueue(sessions)
        await until_status(sessions, job_id, DownloadJobStatus.COMPLETED)
        await service.ask_to_stop()
        assert await service.ends() == 0
    assert "Traceback" not in service.output


async def test_what_a_handler_starts_does_not_write_to_stdout(
    url: str, sessions: Sessions, tmp_path: Path
) -> None:
    """Only the figures do, for a script."""
    (tmp_path / "handlers.py").write_text(
        "import os\n\nasync def download(job):\n    os.system('echo by another program')\n"
    )
    await enqueue(sessions)
    arguments = ("work", "handlers:download", "--until-idle", "--json", "--database-url", url)
    finished = await asyncio.to_thread(run, tmp_path, *arguments)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["completed"] == 1
    assert "by another program\n" in finished.stderr
