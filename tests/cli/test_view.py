"""How a snapshot looks, in terminals of any size."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
from typing import Any

import pytest
from rich.console import Console

from tests.support.factories import EPOCH
from zotify_async_crud.cli._snapshots import PERIODS, FailedJob, RunningJob, Snapshot
from zotify_async_crud.cli._view import View, duration, sparkline
from zotify_async_crud.schemas import DownloadQueueStats

QUEUE = DownloadQueueStats(1_234, 5, 2, 1, 90, dt.timedelta(seconds=75), paused=False)
RUNNING = RunningJob("j1", "4uLU6hMCjMI75M1A2tKUQC", 1, 5, 0.5, False, "host-1", 12.0, 48.0)
FAILED = FailedJob("j2", "1301WleyT98MSxVHPZCA6M", 5, 5, "ValueError: no\nroute", 200.0)


def snapshot(**changes: Any) -> Snapshot:
    """Return a snapshot of a queue that moves, with *changes*."""
    moving = Snapshot(EPOCH, QUEUE, (0,) * (PERIODS - 2) + (30, 60), (RUNNING,), (FAILED,))
    return dataclasses.replace(moving, **changes)


def running(**changes: Any) -> Snapshot:
    """Return a snapshot of a job that runs, with *changes*."""
    return snapshot(running=(dataclasses.replace(RUNNING, **changes),))


def shown(found: Snapshot, width: int = 110, height: int = 40, **options: Any) -> list[str]:
    """Return the lines that the view of a snapshot takes."""
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    view = View(found, "sqlite:///zotify.db", **options)
    with console.capture() as capture:
        console.print(view)
    return [line.rstrip() for line in capture.get().splitlines()]


def words(line: str) -> str:
    """Return a line without the spaces that make it a table."""
    return " ".join(line.split())


def test_a_wide_terminal_shows_all() -> None:
    """What is true of the queue, and then each job."""
    assert [words(line) for line in shown(snapshot())] == [
        "zotify-async-crud sqlite:///zotify.db 07:08:09 UTC",
        "Pending 1,234 Scheduled 5 In progress 2 Failed 1 Completed in the last minute 90",
        "▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▅█ 1.5/s The oldest waits for 1 min 15 s",
        "",
        "Running 2 Attempt Worker Progress For Lease",
        "4uLU6hMCjMI75M1A2tKUQC 1/5 host-1 ━━━━━━━━ 50% 12 s 48 s left",
        "and 1 more",
        "",
        "Failed 1 Attempt Ago Error",
        "1301WleyT98MSxVHPZCA6M 5/5 3 min 20 s ValueError: no route",
    ]


def test_a_narrow_terminal_leaves_out_columns() -> None:
    """What remains is what tells jobs apart, and how far they are."""
    lines = shown(snapshot(), width=38)
    assert all(len(line) <= 38 for line in lines)
    assert "4uLU6hMCjMI75M1A2tKUQC             50%" in lines
    assert "1301WleyT98MSxVHPZCA6M" in lines
    assert "zotify-async-crud  sqlit… 07:08:09 UTC" in lines


@pytest.mark.parametrize(
    ("width", "name"),
    [(100, "Worker"), (70, "Progress"), (60, "Attempt"), (50, "For"), (40, "Lease")],
)
def test_a_column_is_there_from_some_width_on(width: int, name: str) -> None:
    """The worker goes first, and the lease last."""
    assert name in "\n".join(shown(snapshot(), width))
    assert name not in "\n".join(shown(snapshot(), width - 1))


@pytest.mark.parametrize("width", [1, 10, 38, 59, 80, 200])
@pytest.mark.parametrize("height", [1, 3, 5, 8, 13, 28, 50])
@pytest.mark.parametrize("in_progress", [1, 20])
def test_no_terminal_is_too_small(width: int, height: int, in_progress: int) -> None:
    """Only what all should know may need more lines than there are; the terminal cuts it off."""
    many = snapshot(running=(RUNNING,) * in_progress, failed=(FAILED,) * 20)
    facts = shown(snapshot(running=(), failed=()), width, height, fits=True)
    lines = shown(many, width, height, fits=True)
    assert len(lines) <= max(height, len(facts))
    assert all(len(line) <= width for line in lines)


def test_jobs_that_have_no_room_are_counted() -> None:
    """A third of it is for those that failed."""
    queue = dataclasses.replace(QUEUE, in_progress=300, failed=40)
    many = snapshot(queue=queue, running=(RUNNING,) * 200, failed=(FAILED,) * 20)
    lines = shown(many, height=20, fits=True)
    assert len(lines) == 20
    assert "q quits" in lines[0]
    assert [line for line in lines if "more" in line] == ["and 291 more", "and 38 more"]


def test_jobs_that_run_leave_the_rest_to_those_that_failed() -> None:
    """No line is empty that could tell of a job."""
    lines = shown(snapshot(failed=(FAILED,) * 20), height=30, fits=True)
    assert "and 1 more" in lines
    assert sum(FAILED.track_id in line for line in lines) == 20


def test_where_no_failed_job_has_room_others_take_it() -> None:
    """How many there are is told above."""
    queue = dataclasses.replace(QUEUE, in_progress=20, failed=20)
    many = snapshot(queue=queue, running=(RUNNING,) * 20, failed=(FAILED,) * 20)
    lines = shown(many, height=11, fits=True)
    assert len(lines) == 11
    assert lines[-1] == "and 15 more"


def test_a_queue_without_jobs_is_two_lines() -> None:
    """There is nothing to list."""
    nothing = DownloadQueueStats(0, 0, 0, 0, 0, None, paused=False)
    lines = shown(Snapshot(EPOCH, nothing, (0,) * PERIODS, (), ()), width=140)
    assert len(lines) == 2
    assert lines[1].endswith("▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁ 0.0/s")


def test_a_paused_queue_is_told() -> None:
    """Nobody has to wonder why it does not move."""
    paused = dataclasses.replace(QUEUE, paused=True)
    assert "The queue is paused" in "\n".join(shown(snapshot(queue=paused)))


def test_a_problem_is_told_in_one_line() -> None:
    """What is below it is as it was."""
    lines = shown(snapshot(), width=60, problem="the database is\nunavailable: " + 100 * "x")
    assert [line for line in lines if "unavailable" in line] == [
        "Not up to date: the database is\\nunavailable: xxxxxxxxxxxxx…"
    ]
    assert any(RUNNING.track_id in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "lease"),
    [
        ({"lease_seconds": 48.0}, "48 s left"),
        ({"lease_seconds": 48.0, "cancel_requested": True}, "48 s left, to be cancelled"),
        ({"lease_seconds": -61.0}, "over for 1 min 01 s"),
        ({"lease_seconds": None, "worker_id": None, "seconds": None}, "none"),
    ],
)
def test_the_lease_is_told(changes: dict[str, Any], lease: str) -> None:
    """Also where there is none, and where it is over."""
    (line,) = (line for line in shown(running(**changes)) if RUNNING.track_id in line)
    assert line.endswith(lease)
    assert ("host-1" in line) == ("worker_id" not in changes)


def test_nothing_in_a_row_reaches_the_terminal() -> None:
    """Escapes are shown, not sent, and brackets are no markup."""
    escape = "[red]\x1b[31m"
    row = dataclasses.replace(RUNNING, track_id=escape, worker_id=escape)
    failed = dataclasses.replace(FAILED, track_id=escape, error=escape)
    lines = "\n".join(shown(snapshot(running=(row,), failed=(failed,)), problem=escape))
    assert "\x1b" not in lines
    assert lines.count(r"[red]\x1b[31m") == 5


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.9, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 00 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h 00 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d 0 h"),
        (86_400 * 1_234, "1,234 d 0 h"),
    ],
)
def test_a_duration_has_two_units(seconds: float, said: str) -> None:
    """More of them nobody needs."""
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("counts", "bars"), [((), ""), ((0, 0), "▁▁"), ((0, 1, 2, 4, 8), "▁▂▃▅█"), ((3, 3), "██")]
)
def test_a_sparkline_is_as_high_as_its_greatest_count(counts: tuple[int, ...], bars: str) -> None:
    """Nothing is the lowest bar."""
    assert sparkline(counts) == bars
