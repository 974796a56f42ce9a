"""Worker processes of the demo: how they end, and what becomes of their work when they do."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.cli.programs import (
    TIMEOUT,
    Running,
    environment,
    small_export,
    wait_for_completed_jobs,
)
from tests.cli.recorder import Recorder, run_demo
from tests.support.factories import Sessions, new_job
from zotify_async_crud import crud
from zotify_async_crud.demo import _processes
from zotify_async_crud.demo._downloads import Worker
from zotify_async_crud.demo._processes import Processes
from zotify_async_crud.schemas import DownloadJobStatus

KILLED = "was killed by signal 9: its jobs come back to the queue"

FIRST_IS_KILLED_AT_WORK = """
import asyncio, os, pathlib, signal
from zotify_async_crud.demo import _downloads, _worker

async def download(job):
    if job.claim.worker_id.endswith("-1"):
        pathlib.Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    while not pathlib.Path("killed").exists():
        await asyncio.sleep(0.01)

_downloads.stand_in_handler = lambda chance: download
_worker.main()
"""
"""A worker process; the first of them is killed while it has jobs, and others work after that."""

ALL_ARE_KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
TELLS_ITS_SESSION = "import os; print('ready'); raise SystemExit(str(os.getsid(0) == os.getpid()))"
DOES_NOT_END = "import time; print('ready', flush=True); time.sleep(3600)"


def use_program(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let worker processes run *program* instead of their own."""
    monkeypatch.setattr(_processes, "_PROGRAM", ("-c", program))


def worker(url: str) -> Worker:
    """Return what a worker process is told."""
    return Worker("w", url, concurrency=2, seed=7)


def start(worker: Worker) -> Running:
    """Start a worker process as the demo does."""
    process = subprocess.Popen(
        [sys.executable, "-P", *_processes._PROGRAM],  # noqa: SLF001 - what the demo starts
        env=environment(PYTHONPATH=os.pathsep.join(sys.path)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(dataclasses.asdict(worker)) + "\n")
    process.stdin.flush()
    return process


async def test_the_others_finish_the_work_of_one_that_is_killed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told, and the jobs that it had come back."""
    monkeypatch.chdir(tmp_path)
    use_program(monkeypatch, FIRST_IS_KILLED_AT_WORK)
    recorder = Recorder()
    summary = await run_demo(small_export(tmp_path), url, recorder, processes=2)
    assert recorder.said == [f"Worker process 1 {KILLED}"]
    assert summary.downloads.by_worker == (0, 12)
    assert (summary.jobs.left, summary.jobs.completed) == (0, 12)
    assert summary.failed_attempts >= 1


async def test_it_ends_when_all_are_killed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is left who could do what is left."""
    use_program(monkeypatch, ALL_ARE_KILLED)
    recorder = Recorder()
    summary = await run_demo(small_export(tmp_path), url, recorder, processes=2)
    assert sorted(recorder.said) == [f"Worker process {number} {KILLED}" for number in (1, 2)]
    assert (summary.jobs.left, summary.downloads.completed) == (12, 0)


async def test_one_that_fails_is_told_with_its_reason() -> None:
    """The reason is one line, as for the program itself."""
    said: list[str] = []
    await Processes([worker("sqlite:///no/such/folder/zotify.db")], said.append).run()
    path = "no/such/folder/zotify.db"
    reason = f"the database refuses access: No such file or directory: {path}"
    assert said == [f"Worker process 1 failed: {reason}"]


async def test_files_where_the_demo_is_started_are_not_taken_for_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program may be started anywhere, also beside somebody's scripts."""
    (tmp_path / "json.py").write_text("raise SystemExit('this is no part of the program')")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    await Processes([worker("sqlite:///no/such/folder/zotify.db")], said.append).run()
    assert "refuses access" in said[0]


async def test_one_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C must not hang."""
    use_program(monkeypatch, DOES_NOT_END)
    monkeypatch.setattr(_processes, "_PATIENCE", 0.01)
    said: list[str] = []
    processes = Processes([worker("sqlite:///zotify.db")], said.append)
    running = asyncio.create_task(processes.run())
    await asyncio.sleep(0)  # it has begun
    await processes.stop()
    await running
    assert said == [f"Worker process 1 {KILLED}"]


async def test_a_terminal_does_not_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is for the program that started them, and lets them end in good order."""
    use_program(monkeypatch, TELLS_ITS_SESSION)
    said: list[str] = []
    await Processes([worker("sqlite:///zotify.db")], said.append).run()
    assert said == ["Worker process 1 failed: True"]


async def test_one_whose_parent_is_gone_ends_in_good_order(
    url: str, engine: AsyncEngine, sessions: Sessions
) -> None:
    """Its input ends with the parent. It completes what it has begun, and leaves the rest."""
    async with sessions.begin() as db:
        # the last one keeps it from ending by itself
        later = new_job("later", available_at=dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))
        await crud.create_download_jobs(
            db, [*(new_job(f"t{number}") for number in range(500)), later]
        )
    process = start(worker(url))
    await wait_for_completed_jobs(engine, 10, process)
    assert process.communicate(timeout=TIMEOUT) == ("ready\n", "")
    assert process.returncode == 0
    async with sessions.begin() as db:
        statuses = {job.status for job in await crud.get_all_download_jobs(db)}
    assert statuses == {DownloadJobStatus.PENDING, DownloadJobStatus.COMPLETED}
