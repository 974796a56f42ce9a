"""The demo as a user runs it: in a process of its own, on each database, killed and run again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.cli.programs import (
    PROGRAM,
    TIMEOUT,
    environment,
    leave_one_for_later,
    run,
    small_export,
    start,
    wait_for_completed_jobs,
)
from tests.cli.recorder import run_demo
from tests.support.factories import Sessions, set_columns
from zotify_async_crud import crud
from zotify_async_crud.demo import SAMPLE_EXPORT
from zotify_async_crud.importers import Export, read_export
from zotify_async_crud.schemas import DownloadJobStatus

MANY: Final = 200
"""Tracks enough to keep the demo busy until a test has stopped it."""

INTERRUPTED: Final = "Interrupted: run the same command again to go on"


async def check_finished(sessions: Sessions, export: Export) -> None:
    """Check that the database holds all of *export*, and each track was downloaded once."""
    async with sessions.begin() as db:
        jobs = await crud.get_all_download_jobs(db)
        for exported in export.playlists:
            playlist = await crud.get_playlist(db, exported.id)
            assert playlist is not None
            assert playlist.name == exported.name
            assert [track.id for track in playlist.tracks] == list(exported.track_ids)
            assert all(track.name == export.track_names[track.id] for track in playlist.tracks)
    assert Counter(job.track_id for job in jobs) == Counter(export.track_ids)
    assert {(job.status, job.progress, job.error_message) for job in jobs} == {
        (DownloadJobStatus.COMPLETED, 1.0, None)
    }


async def check_secrets(sessions: Sessions, output: str) -> None:
    """Check that a token is stored and *output* shows nothing of it."""
    async with sessions.begin() as db:
        token = await crud.get_spotify_token(db)
    assert token is not None
    assert token.access_token not in output
    assert token.refresh_token not in output
    assert "stand-in-" not in output  # what all of its tokens begin with


def rows(output: str) -> dict[str, str]:
    """Return the rows of the table in *output*."""
    cells = (line.strip("│").split("│") for line in output.splitlines() if line.startswith("│"))
    return {label.strip(): value.strip() for label, value in cells}


@pytest.mark.parametrize("processes", [1, 3])
async def test_it_runs_the_sample_to_the_end(
    processes: int, url: str, sessions: Sessions, tmp_path: Path
) -> None:
    """One command, no set-up, and the counts are those of the export."""
    export = read_export(SAMPLE_EXPORT)
    finished = run(tmp_path, "demo", "--database-url", url, "--processes", str(processes))
    assert (finished.returncode, finished.stderr) == (0, "")
    await check_finished(sessions, export)
    await check_secrets(sessions, finished.stdout)
    table = rows(finished.stdout)
    assert table["Playlists"] == "13"
    assert table["Tracks"] == table["Jobs completed"] == "600"
    assert table["Jobs pending"] == table["Jobs in progress"] == table["Jobs failed"] == "0"
    assert table["Entries skipped (local files, episodes, ...)"] == str(export.skipped)
    assert table["Downloads in this run"].startswith("600 in ")
    assert table["Rate"].endswith(" jobs/s")
    shares = [int(value) for label, value in table.items() if "of process" in label]
    assert (len(shares), sum(shares)) == ((3, 600) if processes == 3 else (0, 0))


async def test_its_output_to_a_file_is_plain_lines(url: str, tmp_path: Path) -> None:
    """No control characters, no bars, and it tells where the database is."""
    export = small_export(tmp_path)
    finished = run(tmp_path, "demo", "--database-url", url, "--export", str(export))
    lines = finished.stdout.splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[:3] == ["Sync playlists: 1 done", "Enqueue tracks: 12 done", "Download: 12 done"]
    assert lines[-1].startswith(f"Database: {url.partition('?')[0]}")


async def test_another_run_finds_nothing_left_to_do(
    url: str, sessions: Sessions, tmp_path: Path
) -> None:
    """It says so, shows the table, and succeeds."""
    export = small_export(tmp_path)
    await run_demo(export, url)
    again = run(tmp_path, "demo", "--database-url", url, "--export", str(export))
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[:2] == [
        "Sync playlists: 1 done",
        "Nothing is left to download",
    ]
    assert rows(again.stdout)["Jobs completed"] == "12"
    assert "Rate" not in rows(again.stdout)
    await check_finished(sessions, read_export(export))


async def test_after_sigkill_another_run_loses_nothing(
    url: str, engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    """Jobs that were in progress go back to the queue, and no track is enqueued again."""
    export = small_export(tmp_path, MANY)
    later = await leave_one_for_later(sessions)
    arguments = ("demo", "--database-url", url, "--export", str(export), "--workers", "2")
    process = start(tmp_path, *arguments)
    await wait_for_completed_jobs(engine, 40, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    async with sessions.begin() as db:
        statuses = Counter(job.status for job in await crud.get_all_download_jobs(db))
    assert statuses.total() == MANY
    assert statuses[DownloadJobStatus.COMPLETED] < MANY
    await set_columns(sessions, later, available_at=None)
    finished = run(tmp_path, *arguments)
    assert (finished.returncode, finished.stderr) == (0, "")
    await check_finished(sessions, read_export(export))
    await check_secrets(sessions, finished.stdout + (tmp_path / "output").read_text())


async def test_an_interrupt_stops_it_in_one_line_and_nothing_stays_in_progress(
    url: str, engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    """Ctrl-C exits like every program that obeys it: 130."""
    export = small_export(tmp_path, MANY)
    await leave_one_for_later(sessions)
    arguments = ("demo", "--database-url", url, "--export", str(export), "--workers", "2")
    process = start(tmp_path, *arguments)
    await wait_for_completed_jobs(engine, 20, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 130
    *_, last = (tmp_path / "output").read_text().splitlines()
    assert last == INTERRUPTED
    assert "Traceback" not in (tmp_path / "output").read_text()
    async with sessions.begin() as db:
        stats = await crud.get_download_queue_stats(db)
    assert stats.in_progress == 0
    assert 0 < stats.pending + stats.scheduled < MANY


async def test_several_demos_share_a_database(url: str, sessions: Sessions, tmp_path: Path) -> None:
    """Each succeeds, and together they download each track once."""
    export = small_export(tmp_path, 60)
    arguments = ("demo", "--database-url", url, "--export", str(export), "--workers", "1")
    other = start(tmp_path, *arguments)
    finished = run(tmp_path, *arguments)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert other.wait(TIMEOUT) == 0
    await check_finished(sessions, read_export(export))


def test_a_reader_that_stops_reading_gets_no_traceback(tmp_path: Path) -> None:
    """``| head -0`` closes the pipe while lines are still to come."""
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [*PROGRAM, "demo", "--export", str(small_export(tmp_path))],
        cwd=tmp_path,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(TIMEOUT) == 141
