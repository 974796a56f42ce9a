"""Draws the screenshots that the README shows: ``python -m tests.cli.screenshots``.

Each is what the program really drew on a terminal, while jobs really ran.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pyte.screens import Char
from rich.console import Console
from rich.style import Style
from rich.text import Text

from tests.cli.terminals import Terminal, terminal
from zotify_async_crud import crud, database, demo, importers, migrations, schemas
from zotify_async_crud._transactions import Sessions
from zotify_async_crud.worker import Discard, Handler, JobContext, WorkerPool

DOCS: Final = Path(__file__).parents[2] / "docs"
COLUMNS: Final = 100
URL: Final = "sqlite:///zotify.db"

_WORKING: Final = 50.0
"""Seconds that workers have been at work when they are watched."""

_COLOURS: Final = {"default": None, "brown": "yellow", "brightbrown": "bright_yellow"}


async def main() -> None:
    """Write the files."""
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        await _demo(Path(folder))
        await _watch(Path(folder))


async def _demo(folder: Path) -> None:
    with terminal(folder, "demo", columns=COLUMNS, rows=24) as screen:
        await screen.ends()
        _write("demo", screen)


async def _watch(folder: Path) -> None:
    engine = database.create_engine(f"sqlite:///{folder}/zotify.db")
    await migrations.upgrade(engine)
    sessions = database.create_session_factory(engine)
    await _enqueue(sessions)
    handler = _handler(random.Random(7))
    pools = [WorkerPool(sessions, handler, worker_id=f"nas-{n}", concurrency=4) for n in (1, 2)]
    async with asyncio.TaskGroup() as group:
        for pool in pools:
            group.create_task(pool.run())
        with terminal(folder, "watch", "--database-url", URL, columns=COLUMNS, rows=24) as screen:
            await asyncio.sleep(_WORKING)
            await screen.until_shown("Running 8", "Failed")
            _write("watch", screen)
        for pool in pools:
            for _ in range(2):
                group.create_task(pool.stop())
    await engine.dispose()


async def _enqueue(sessions: Sessions) -> None:
    track_ids = importers.read_export(demo.SAMPLE_EXPORT).track_ids
    jobs = [schemas.DownloadJobCreate(track_id=track_id) for track_id in track_ids]
    async with sessions.begin() as db:
        await crud.create_download_jobs(db, jobs)


def _handler(chance: random.Random) -> Handler:
    async def download(job: JobContext) -> None:
        seconds = chance.choice((0.2, 0.4, 1.0, 9.0))
        for percent in range(0, 100, 5):
            await job.report(percent / 100)
            await asyncio.sleep(seconds / 20)
        if chance.random() < 0.03:
            raise Discard("the track is not available in this country")

    return download


def _write(name: str, screen: Terminal) -> None:
    console = Console(record=True, file=io.StringIO(), width=COLUMNS)
    rows = [_text(row) for row in screen.rows]
    while rows and not rows[-1].plain.strip():
        rows.pop()
    console.print(Text("\n").join(rows), no_wrap=True)
    title = f"zotify-async-crud {name}"
    (DOCS / f"{name}.svg").write_text(console.export_svg(title=title, unique_id=name))


def _text(row: Sequence[Char]) -> Text:
    alike = itertools.groupby(row, _style)
    return Text.assemble(*(("".join(char.data for char in chars), style) for style, chars in alike))


def _style(char: Char) -> Style:
    is_code = re.fullmatch("[0-9a-f]{6}", char.fg) is not None
    colour = _COLOURS.get(char.fg, f"#{char.fg}" if is_code else char.fg)
    return Style(color=colour, bold=char.bold)


if __name__ == "__main__":
    asyncio.run(main())
