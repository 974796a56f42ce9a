"""``watch`` on a terminal of its own, and where there is none, while jobs really run."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.programs import PROGRAM, TIMEOUT, Running, environment, start
from tests.cli.terminals import Terminal, terminal
from tests.support.factories import EPOCH, Sessions, add_claimed, add_job
from tests.support.pools import Held, enqueue, running, until
from tests.worker.proxy import proxy
from zotify_async_crud import cli, crud
from zotify_async_crud.cli import _terminal, _watch
from zotify_async_crud.cli._snapshots import Snapshot
from zotify_async_crud.cli._terminal import obeying_keys
from zotify_async_crud.schemas import DownloadJobStatus, DownloadQueueStats
from zotify_async_crud.worker import WorkerPool

LEAVES = b"\x1b[?1049l"
"""What gives a terminal back what it showed before."""


def watching(folder: Path, url: str, **size: int) -> contextlib.AbstractContextManager[Terminal]:
    """Watch on a terminal, often."""
    return terminal(folder, "watch", "--database-url", url, "--interval", "0.1", **size)


async def test_it_shows_what_runs(url: str, sessions: Sessions, tmp_path: Path) -> None:
    """Counts, progress and leases follow; q ends it, and leaves the terminal as it was."""
    held = Held()
    pool = WorkerPool(sessions, held, worker_id="worker-7", concurrency=3, lease=60)
    await enqueue(sessions, 5)
    with watching(tmp_path, url) as screen:
        await screen.until_shown("Pending 5", "In progress 0")
        async with running(pool):
            jobs = [await held.next() for _ in range(3)]
            await screen.until_shown("Pending 2", "Running 3", "worker-7", "t2", " s left")
            await jobs[0].report(0.53)
            await screen.until_shown("53%")
            held.let_go()
            await screen.until_shown("Pending 0", "Completed in the last minute 5", "0.1/s")
            await screen.until_gone("Running")
        assert screen.modes != screen.before
        screen.press("x?q")
        assert await screen.ends() == 0
        assert screen.modes == screen.before
        assert screen.drawn.count(LEAVES) == 1
        assert b"Traceback" not in screen.drawn


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("how", ["\x03", signal.SIGTERM])
async def test_a_signal_ends_it_like_q(url: str, tmp_path: Path, how: str | signal.Signals) -> None:
    """Its exit code is 0, as with other programs that show until they are told to stop."""
    with watching(tmp_path, url) as screen:
        await screen.until_shown("Pending 0", "q quits")
        if isinstance(how, str):
            screen.press(how)
        else:
            screen.process.send_signal(how)
        assert await screen.ends() == 0
        assert screen.modes == screen.before
        assert screen.drawn.count(LEAVES) == 1


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_it_follows_the_size_of_the_window(
    url: str, sessions: Sessions, tmp_path: Path
) -> None:
    """Jobs that have no room any more are counted."""
    for number in range(20):
        await add_claimed(sessions, f"track-{number}", worker_id="worker-7")
    with watching(tmp_path, url) as screen:
        await screen.until_shown("track-0 ", "track-19 ", "worker-7")
        screen.resize(60, 10)
        await screen.until_shown("and 16 more")
        await screen.until_gone("worker-7")
        assert len(screen.text.splitlines()) == 10
        screen.resize(110, 40)
        await screen.until_shown("track-19 ", "worker-7")
        await screen.until_gone("more")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_a_database_that_goes_away_is_waited_for(url: str, tmp_path: Path) -> None:
    """The view says so, and what it shows is what was seen last."""
    async with proxy(url) as way:
        await way.start()
        with watching(tmp_path, way.url) as screen:
            await screen.until_shown("Pending 0")
            await way.stop()
            await screen.until_shown("Not up to date: the database is unavailable", "Pending 0")
            await way.start()
            await screen.until_gone("Not up to date")
            screen.press("q")
            assert await screen.ends() == 0
            assert b"Traceback" not in screen.drawn


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_keys_may_come_from_elsewhere(url: str, tmp_path: Path) -> None:
    """Without a terminal as its input, it goes on until a signal comes."""
    arguments = ("watch", "--database-url", url)
    with terminal(tmp_path, *arguments, stdin=subprocess.DEVNULL) as screen:
        await screen.until_shown("Pending 0")
        assert screen.modes == screen.before
        screen.press("\x03")
        assert await screen.ends() == 0


async def test_a_key_comes_at_once_until_the_terminal_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then there is nothing that could come."""
    end, theirs = pty.openpty()
    pressed: asyncio.Queue[str] = asyncio.Queue()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with obeying_keys(pressed.put_nowait):
            os.write(end, b"a")
            assert await pressed.get() == "a"
            os.close(end)
            assert await pressed.get() == ""
        assert not asyncio.get_running_loop().remove_reader(stdin), "it still waits for keys"


def test_a_terminal_that_cannot_be_read_is_one_that_is_gone() -> None:
    """A process that its session has left behind is told so by an error."""
    no_terminal = -1
    assert _terminal.read_key(no_terminal) == ""


@pytest.fixture
def started() -> Iterator[list[Running]]:
    """Processes that do not outlive the test."""
    processes: list[Running] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_without_a_terminal_it_writes_what_it_sees(
    url: str, sessions: Sessions, tmp_path: Path, options: tuple[str, ...], started: list[Running]
) -> None:
    """Again and again, whatever happens to the database, until a signal comes."""
    await add_claimed(sessions, "t1")

    def written() -> list[str]:
        return (tmp_path / "output").read_text().splitlines()

    async def until_written(more: str) -> None:
        before = len(written())

        async def is_written() -> bool:
            return any(more in line for line in written()[before:])

        await until(is_written)

    async with proxy(url) as way:
        await way.start()
        options = ("--database-url", way.url, "--interval", "0.1", *options)
        started.append(start(tmp_path, "watch", *options))
        await until_written("t1")
        await until_written("t1")
        await way.stop()
        await until_written("zotify-async-crud: the database is unavailable: ")
        await way.start()
        await until_written("t1")
        started[0].send_signal(signal.SIGINT)
        assert await asyncio.to_thread(started[0].wait, TIMEOUT) == 0
    seen = [line for line in written() if not line.startswith("zotify-async-crud: ")]
    if "--json" in options:
        assert {json.loads(line)["running"][0]["track_id"] for line in seen} == {"t1"}
    else:
        assert {line.split()[1] for line in seen} == {"queue", "running"}


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_it_ends_when_nobody_reads_any_more(
    url: str, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """As head does once it has its lines; the exit code is the one that shells give for that."""
    process = subprocess.Popen(
        [*PROGRAM, "watch", "--database-url", url, "--interval", "0.1"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    assert process.stdout is not None
    assert process.stderr is not None
    assert " queue " in process.stdout.readline()
    process.stdout.close()
    assert process.wait(TIMEOUT) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


def test_what_it_writes_can_be_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing stays in a buffer until there is more."""
    nothing = DownloadQueueStats(0, 0, 0, 0, 0, None, paused=False)
    for write in (_watch.write_lines, _watch.write_json):
        pipe = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe))
        write(Snapshot(EPOCH, nothing, (), (), ()))
        assert pipe.getvalue().endswith(b"\n")


async def test_it_waits_for_nobody(
    url: str, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while a transaction holds all that can be locked."""
    async with sessions.begin() as db:
        await crud.pause_download_queue(db)
        assert await asyncio.to_thread(cli.main, ("watch", "--once", "--database-url", url)) == 0
    assert capsys.readouterr().out.endswith(" paused=False\n")


async def test_it_can_look_once(
    url: str, sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """In lines, or in a document."""
    await add_job(sessions, "t1", status=DownloadJobStatus.FAILED, error="no route")
    arguments = ("watch", "--once", "--database-url", url)
    assert await asyncio.to_thread(cli.main, arguments) == 0
    queue, failed = capsys.readouterr().out.splitlines()
    assert " queue pending=0 scheduled=0 in_progress=0 failed=1 " in queue
    assert ' error="no route" ' in failed
    assert await asyncio.to_thread(cli.main, (*arguments, "--json")) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["failed"][0]["error"] == "no route"


async def test_a_terminal_can_be_shown_all_once(
    url: str,
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The view scrolls by, however short the terminal is."""
    for name, value in {"TTY_COMPATIBLE": "1", "TERM": "xterm", "LINES": "5"}.items():
        monkeypatch.setenv(name, value)
    for number in range(10):
        await add_claimed(sessions, f"track-{number}")
    arguments = ("watch", "--once", "--database-url", url)
    assert await asyncio.to_thread(cli.main, arguments) == 0
    drawn = capsys.readouterr().out
    assert all(f"track-{number}" in drawn for number in range(10))
    assert "q quits" not in drawn


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("postgresql://127.0.0.1:1/zotify", 3, "the database is unavailable: "),
        ("sqlite:///zotify.db", 4, "the tables are missing "),
    ],
)
def test_a_database_that_cannot_be_used_is_told_at_the_start(
    url: str, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is shown of it."""
    with contextlib.chdir(tmp_path):
        assert cli.main(("watch", "--database-url", url)) == code
    written = capsys.readouterr()
    assert written.err.startswith(f"zotify-async-crud: {said}")
    assert (written.out, written.err.count("\n")) == ("", 1)
