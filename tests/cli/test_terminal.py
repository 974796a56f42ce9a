"""The demo on a terminal: bars that move, and Ctrl-C."""

from __future__ import annotations

from pathlib import Path

from tests.cli.programs import leave_one_for_later, run_on_terminal, small_export
from zotify_async_crud import crud, database, migrations
from zotify_async_crud.schemas import DownloadQueueStats


def test_a_terminal_shows_bars(tmp_path: Path) -> None:
    """They move while it works, and stay when it is done. The database is a file right there."""
    arguments = ("demo", "--export", str(small_export(tmp_path)), "--processes", "2")
    code, drawn = run_on_terminal(tmp_path, *arguments)
    assert code == 0
    assert "\x1b[" in drawn
    assert "━" in drawn
    for stage in ("Sync playlists", "Enqueue tracks", "Download"):
        assert stage in drawn
    assert "12/12" in drawn
    assert "Jobs completed" in drawn
    assert "Database: sqlite+aiosqlite:///zotify-demo.db" in drawn
    assert (tmp_path / "zotify-demo.db").exists()
    assert "stand-in-" not in drawn


def test_a_terminal_without_cursor_gets_plain_lines(tmp_path: Path) -> None:
    """There, bars would leave a trail."""
    code, drawn = run_on_terminal(
        tmp_path, "demo", "--export", str(small_export(tmp_path)), TERM="dumb"
    )
    assert code == 0
    assert "\x1b[2K" not in drawn
    assert "Download: 12 done" in drawn


async def test_ctrl_c_stops_all_processes(tmp_path: Path) -> None:
    """They give back what they have, and nothing of theirs is drawn."""
    export = small_export(tmp_path, 400)
    await leave_one_in(f"sqlite:///{tmp_path}/zotify-demo.db")
    arguments = ("demo", "--export", str(export), "--processes", "2", "--workers", "1")
    code, drawn = run_on_terminal(tmp_path, *arguments, at=r"Download.* [1-9]\d*/400")
    assert code == 130
    assert drawn.rstrip().endswith("Interrupted: run the same command again to go on")
    assert "Traceback" not in drawn
    assert "Worker process" not in drawn
    stats = await queue_stats(f"sqlite:///{tmp_path}/zotify-demo.db")
    assert stats.in_progress == 0
    assert 0 < stats.pending + stats.scheduled < 400


async def leave_one_in(url: str) -> None:
    """Make a database in which a job is left over, so that the demo does not end by itself."""
    engine = database.create_engine(url)
    await migrations.upgrade(engine)
    await leave_one_for_later(database.create_session_factory(engine))
    await engine.dispose()


async def queue_stats(url: str) -> DownloadQueueStats:
    """Return what the database at *url* says of its queue."""
    engine = database.create_engine(url)
    async with database.create_session_factory(engine).begin() as db:
        stats = await crud.get_download_queue_stats(db)
    await engine.dispose()
    return stats
