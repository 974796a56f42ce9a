"""The commands about jobs and the queue: what they do and print, for people and for scripts."""

from __future__ import annotations

import contextlib
import datetime as dt
import tempfile
from collections.abc import Iterator

import pytest

from tests.cli.shell import Shell

LONG_AGO = "'2026-01-01 00:00:00.000000'"


def enqueue(shell: Shell, *track_ids: str) -> list[str]:
    """Enqueue downloads and return the ids of their jobs."""
    return shell.run("enqueue", *track_ids).split()


def listed(shell: Shell, *options: str) -> list[str]:
    """Return the tracks of the jobs in a list."""
    return [job["track_id"] for job in shell.json("jobs", "list", *options)["items"]]


def test_jobs_are_enqueued_and_listed_newest_first(shell: Shell) -> None:
    """The ids that one command prints are what the others take."""
    first, second = enqueue(shell, "t1", "t2")
    header, *rows = shell.run("jobs", "list").splitlines()
    assert header.split() == ["JOB", "TRACK", "STATUS", "PROGRESS", "ATTEMPT", "CREATED"]
    assert [row.split()[:5] for row in rows] == [
        [second, "t2", "pending", "0%", "0/5"],
        [first, "t1", "pending", "0%", "0/5"],
    ]


def test_an_empty_list_is_one(shell: Shell) -> None:
    """People get the header."""
    assert shell.json("jobs", "list") == {"items": [], "after": None}
    assert shell.run("jobs", "list").split()[0] == "JOB"


def test_all_that_is_known_of_a_job_is_shown(shell: Shell) -> None:
    """With times in UTC, and the limits that it was given."""
    [job_id] = shell.json("enqueue", "t1", "--priority", "7", "--max-attempts", "2")
    shown = shell.json("jobs", "show", job_id)
    assert dt.datetime.fromisoformat(shown.pop("created_at")).utcoffset() == dt.timedelta(0)
    assert shown == {
        "job_id": job_id,
        "track_id": "t1",
        "status": "pending",
        "progress": 0.0,
        "error_message": None,
        "priority": 7,
        "available_at": None,
        "attempt": 0,
        "max_attempts": 2,
        "started_at": None,
        "finished_at": None,
        "cancel_requested": False,
    }
    text = shell.run("jobs", "show", job_id)
    assert job_id in text
    assert " UTC │" in text
    assert "│ Cancel requested │                                   no │" in text


@pytest.mark.parametrize("columns", ["20", "60"])
def test_no_terminal_is_too_narrow_for_an_id(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """What does not fit into a box stands in lines, and what looks like markup stays text."""
    [job_id] = enqueue(shell, "t1")
    problem = "[Errno 2] no such file\n" + "x" * 50
    shell.execute(f"UPDATE download_jobs SET status = 'failed', error_message = '{problem}'")
    monkeypatch.setenv("COLUMNS", columns)
    assert f"Job id: {job_id}\n" in shell.run("jobs", "show", job_id)
    assert f"Error message: [Errno 2] no such file\\n{'x' * 50}\n" in shell.run(
        "jobs", "show", job_id
    )
    assert job_id in shell.run("jobs", "list")
    monkeypatch.setenv("COLUMNS", "150")
    assert "[Errno 2]" in shell.run("jobs", "show", job_id)


def test_a_list_has_pages(shell: Shell) -> None:
    """Each tells the key of the next: people on stderr, so that stdout is the table only."""
    enqueue(shell, "t0", "t1", "t2")
    page = shell.json("jobs", "list", "--limit", "2")
    assert [job["track_id"] for job in page["items"]] == ["t2", "t1"]
    out, complaint = shell.both("jobs", "list", "--limit", "2")
    assert out.count("\n") == 3
    assert complaint == f"zotify-async-crud: there are more: --after {page['after']}\n"
    assert listed(shell, "--limit", "2", "--after", page["after"]) == ["t0"]


def test_a_list_can_be_of_one_status(shell: Shell) -> None:
    """By the name that JSON gives it."""
    enqueue(shell, "t0", "t1")
    shell.execute("UPDATE download_jobs SET status = 'in_progress' WHERE track_id = 't1'")
    assert listed(shell, "--status", "in_progress") == ["t1"]
    assert listed(shell, "--status", "cancelled") == []


def test_ids_come_by_standard_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """After those that are given; blank lines are none, nor is the mark that editors begin with."""
    with _standard_input(monkeypatch, b"\xef\xbb\xbft2\n\n  t3 \r\nt\xc3\xa9"):
        assert len(enqueue(shell, "t1", "--stdin")) == 4
    assert listed(shell) == ["t\u00e9", "t3", "t2", "t1"]
    with _standard_input(monkeypatch, b""):
        assert shell.json("enqueue", "--stdin") == []


def test_standard_input_without_text_is_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and no job."""
    with _standard_input(monkeypatch, b"t1\n\xff\xfe\n"):
        complaint = shell.complaint("enqueue", "--stdin", code=2)
    assert complaint == "What comes by standard input is no text in UTF-8"
    assert listed(shell) == []


@contextlib.contextmanager
def _standard_input(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> Iterator[None]:
    """Let *sent* come by the standard input of the commands in the block."""
    with tempfile.TemporaryFile("w+") as file:
        file.buffer.write(sent)
        file.seek(0)
        monkeypatch.setattr("sys.stdin", file)
        yield


def test_nothing_to_enqueue_is_a_wrong_usage(shell: Shell) -> None:
    """Rather than a command that does nothing."""
    complaint = shell.complaint("enqueue", code=2)
    assert complaint == "Give the ids of tracks, or --stdin"


def test_an_id_that_is_none_enqueues_nothing(shell: Shell) -> None:
    """Neither what stands before it."""
    complaint = shell.complaint("enqueue", "t1", "x" * 256, code=2)
    assert complaint.startswith("jobs[1].track_id: ")
    assert listed(shell) == []


def test_a_unique_job_is_there_once(shell: Shell) -> None:
    """The id of the one that is there is printed."""
    first = enqueue(shell, "t1", "--unique")
    assert enqueue(shell, "t1", "--unique") == first


def test_failed_jobs_are_retried(shell: Shell) -> None:
    """It tells how many."""
    enqueue(shell, "t1", "t2")
    shell.execute("UPDATE download_jobs SET status = 'failed' WHERE track_id = 't1'")
    assert shell.run("jobs", "retry") == "Failed jobs that are pending again: 1\n"
    assert shell.json("jobs", "retry") == {"retried": 0}


def test_jobs_are_cancelled(shell: Shell) -> None:
    """Of one that runs, the worker is told; one that is given twice is cancelled once."""
    running, pending, other = enqueue(shell, "t1", "t2", "t3")
    shell.execute(
        "UPDATE download_jobs SET status = 'in_progress', worker_id = 'w', attempt = 1,"
        f" lease_expires_at = '2099-01-01 00:00:00.000000' WHERE job_id = '{running}'"
    )
    assert shell.run("jobs", "cancel", pending, running, pending).splitlines() == [
        f"{running} is in progress, and its worker will be told",
        f"{pending} is cancelled",
    ]
    [found] = shell.json("jobs", "cancel", other)
    assert (found["job_id"], found["status"]) == (other, "cancelled")


def test_a_job_that_is_not_there_is_told(shell: Shell) -> None:
    """And nothing is cancelled then, whatever else was given."""
    [job_id] = enqueue(shell, "t1")
    said = "there is no download job nobody"
    assert shell.complaint("jobs", "show", "nobody", code=1) == said
    assert shell.complaint("jobs", "cancel", job_id, "nobody", code=1) == said
    assert shell.json("jobs", "show", job_id)["status"] == "pending"


def test_jobs_are_pruned_until_none_is_left(shell: Shell) -> None:
    """Also where one transaction is too short for all; failed ones are kept until named."""
    enqueue(shell, *(f"t{number}" for number in range(1_002)))
    shell.execute(f"UPDATE download_jobs SET status = 'completed', finished_at = {LONG_AGO}")
    shell.execute("UPDATE download_jobs SET status = 'failed' WHERE track_id = 't1001'")
    prune = ("jobs", "prune", "--yes", "--older-than", "12h")
    assert shell.json(*prune) == {"pruned": 1_001}
    assert shell.run(*prune, "--status", "failed", "--status", "completed") == "Jobs deleted: 1\n"
    assert listed(shell) == []


@pytest.mark.parametrize(("age", "pruned"), [("3650d", 0), ("521w", 0), ("87000h", 0), ("4w", 1)])
def test_an_age_has_a_unit(shell: Shell, age: str, pruned: int) -> None:
    """And is ten years at most."""
    enqueue(shell, "t")
    shell.execute(f"UPDATE download_jobs SET status = 'completed', finished_at = {LONG_AGO}")
    assert shell.json("jobs", "prune", "--yes", "--older-than", age) == {"pruned": pruned}


@pytest.mark.parametrize(
    "age", ["", "7", "d", "-1d", "7 d", "1y", "7dd", "99999999w", "999999999s"]
)
def test_what_is_no_age_is_a_wrong_usage(shell: Shell, age: str) -> None:
    """Before anything is deleted."""
    complaint = shell.complaint("jobs", "prune", "--yes", f"--older-than={age}", code=2)
    assert "--older-than" in complaint


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "list", "--limit", "0"),
        ("jobs", "list", "--limit", "1001"),
        ("jobs", "list", "--status", "lost"),
        ("enqueue", "t", "--priority", "32768"),
        ("enqueue", "t", "--max-attempts", "0"),
        ("jobs", "cancel"),
    ],
)
def test_values_out_of_range_are_a_wrong_usage(shell: Shell, arguments: tuple[str, ...]) -> None:
    """They are refused before the database is asked."""
    shell.complaint(*arguments, code=2)


def test_the_queue_is_paused_and_resumed(shell: Shell) -> None:
    """The figures tell."""
    enqueue(shell, "t1")
    assert shell.run("queue", "pause") == "The queue is paused\n"
    stats = shell.json("stats")
    assert stats.pop("oldest_pending_age") >= 0
    assert stats == {
        "pending": 1,
        "scheduled": 0,
        "in_progress": 0,
        "failed": 0,
        "completed_last_minute": 0,
        "paused": True,
    }
    assert "The oldest waits for" in shell.run("stats")
    assert shell.run("queue", "resume") == "The queue hands out jobs\n"
    assert shell.json("queue", "pause") == {"paused": True}
    assert shell.json("queue", "resume") == {"paused": False}
    shell.execute("DELETE FROM download_jobs")
    stats = shell.json("stats")
    assert (stats["paused"], stats["oldest_pending_age"]) == (False, None)
    assert "The oldest" not in shell.run("stats")
