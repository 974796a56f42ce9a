"""The worker service of the examples, as a process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.support.factories import Sessions, add_job, stored_job
from zotify_async_crud.schemas import DownloadJobStatus

CHECKOUT = Path(__file__).parents[2]
TIMEOUT = 60.0

Service: TypeAlias = subprocess.Popen[bytes]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the service writes its log."""
    return tmp_path / "log"


@pytest.fixture
def start(url: str, log: Path) -> Iterator[Callable[[float], Service]]:
    """Start the service, whose downloads take so many seconds; none outlives its test."""
    started = []

    def start(seconds: float) -> Service:
        command = [sys.executable, "-m", "examples.worker", url, "--seconds", str(seconds)]
        with log.open("w") as output:
            service = subprocess.Popen(command, cwd=CHECKOUT, stderr=output)
        started.append(service)
        return service

    yield start
    for service in started:
        service.kill()
        service.wait()


def written(log: Path) -> str:
    """Return what stands in the log."""
    return log.read_text()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until *condition* holds."""
    deadline = time.monotonic() + TIMEOUT
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def until_written(log: Path, text: str) -> None:
    """Wait until *text* stands in the log."""

    async def is_written() -> bool:
        return text in written(log)

    await until(is_written)


async def test_a_signal_lets_the_downloads_end(
    sessions: Sessions, start: Callable[[float], Service], log: Path
) -> None:
    """Its exit code is 0, and the log, which the service configures, tells what was done."""
    job = await add_job(sessions)
    service = start(10.0)
    await until_written(log, "downloading t")
    service.send_signal(signal.SIGTERM)
    assert service.wait(TIMEOUT) == 0
    ended = await stored_job(sessions, job.job_id)
    assert (ended.status, ended.progress) == (DownloadJobStatus.COMPLETED, 1.0)
    *_, downloaded, last = written(log).splitlines()
    assert downloaded.endswith("INFO examples.worker downloaded t")
    assert "stopped: Counts(claimed=1, completed=1, failed=0, released=0, lost=0)" in last


async def test_a_second_signal_gives_the_jobs_back_at_once(
    sessions: Sessions, start: Callable[[float], Service], log: Path
) -> None:
    """A download that takes an hour is not waited for."""
    job = await add_job(sessions)
    service = start(3_600.0)
    await until_written(log, "downloading t")
    service.send_signal(signal.SIGINT)
    await until_written(log, "stopping")
    assert service.poll() is None
    service.send_signal(signal.SIGTERM)
    assert service.wait(TIMEOUT) == 0
    assert (await stored_job(sessions, job.job_id)).status is DownloadJobStatus.PENDING
    assert "released=1" in written(log)
