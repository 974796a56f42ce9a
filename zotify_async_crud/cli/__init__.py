"""The command line: options in, exit codes and lines out, and how a run of the demo looks."""

from __future__ import annotations

import contextlib
import functools
import logging
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from zotify_async_crud import database, demo, migrations
from zotify_async_crud.cli import _tokens
from zotify_async_crud.cli._keys import keyring
from zotify_async_crud.cli._options import DATABASE_URL
from zotify_async_crud.demo import Reporter, Stage, Summary
from zotify_async_crud.errors import ZotifyCrudError
from zotify_async_crud.importers import Problem
from zotify_async_crud.importing import ImportResult, import_exports

PROGRAM: Final = "zotify-async-crud"

SUCCESS, FAILURE, USAGE = 0, 1, 2
"""Exit codes: all is done; it is not, and a line on stderr says why; the options are wrong."""


def _version() -> str:
    return metadata.version(PROGRAM)


app = App(
    name=PROGRAM,
    help="The data layer of the Zotify API: playlists, a queue of downloads and a token.",
    version=_version,
    suppress_keyboard_interrupt=False,  # it goes to __main__, which has more to say
)

_EXPORT: Final = Parameter(
    help="A Spotify account-data export: its folder, or one file of it, such as Playlist1.json or"
    " YourLibrary.json. Without it, a sample of an invented account.",
    show_default=False,
)
_WORKERS: Final = Parameter(
    help="How many downloads each process does at once.", validator=Number(gte=1, lte=100)
)
_PROCESSES: Final = Parameter(
    help="How many processes share the queue: this one alone, or so many that it starts.",
    validator=Number(gte=1, lte=32),
)

_PATHS: Final = Parameter(
    help="Account-data exports: their folders, or files of them, such as Playlist1.json.",
    negative=(),
)
_SKIP_MALFORMED: Final = Parameter(
    help="Leave out entries that are not what Spotify ships, and name each on stderr. Without it,"
    " the first one ends the import before anything is written.",
    negative=(),
)
_DRY_RUN: Final = Parameter(help="Show what would change, and change nothing.", negative=())

app.command(_tokens.app)


@app.command(name="demo")
async def run_demo(
    *,
    export: Annotated[Path, _EXPORT] = demo.SAMPLE_EXPORT,
    database_url: Annotated[str, DATABASE_URL] = "sqlite:///zotify-demo.db",
    workers: Annotated[int, _WORKERS] = 8,
    processes: Annotated[int, _PROCESSES] = 1,
) -> int:
    """Sync the playlists of a Spotify export and work off a queue of its tracks.

    Nothing is downloaded: a stand-in takes some milliseconds, and fails now and then to be retried.
    A run that was killed goes on where it stopped when it is started again. Several may work on one
    database at a time; each ends when no job is left, also of those that others hold.
    """
    console = Console()
    chance = random.Random()
    with _reporter(console) as reporter:
        summary = await demo.run(
            export,
            database_url,
            workers=workers,
            processes=processes,
            token_keyring=keyring(),
            chance=chance,
            reporter=reporter,
        )
    _show(_rows(summary), console)
    console.print(
        _printable(f"Database: {summary.database}"), markup=False, highlight=False, soft_wrap=True
    )
    if left := summary.jobs.left:
        return _fail(f"jobs that are not completed: {left}; run it again to go on", FAILURE)
    return SUCCESS


@app.command(name="import")
async def run_import(
    paths: Annotated[list[Path], _PATHS],
    /,
    *,
    database_url: Annotated[str, DATABASE_URL] = "sqlite:///zotify.db",
    skip_malformed: Annotated[bool, _SKIP_MALFORMED] = False,
    dry_run: Annotated[bool, _DRY_RUN] = False,
) -> None:
    """Make the playlists in a database those of Spotify account-data exports.

    Only what differs is written; other playlists stay, and what is known of tracks is added. An
    import that was interrupted can be made again.
    """
    console = Console()
    with _reporter(console) as reporter:
        result = await _import(
            paths,
            database_url,
            on_problem=_complain if skip_malformed else None,
            on_progress=functools.partial(reporter.show, Stage.IMPORT),
            dry_run=dry_run,
        )
    _show(_changes(result), console)
    if dry_run:
        console.print("Dry run: nothing was written")


async def _import(paths: list[Path], database_url: str, **options: Any) -> ImportResult:
    engine = database.create_engine(database_url)
    try:
        await migrations.upgrade(engine)
        sessions = database.create_session_factory(engine)
        return await import_exports(sessions, paths, **options)
    finally:
        await engine.dispose()


def _complain(problem: Problem) -> None:
    sys.stderr.write(f"{PROGRAM}: left out: {_printable(str(problem))}\n")


def _changes(result: ImportResult) -> Iterator[tuple[str, str]]:
    playlists = result.playlists
    yield "Playlists created", f"{playlists.playlists_created:,}"
    yield "Playlists updated", f"{playlists.playlists_updated:,}"
    yield "Playlists unchanged", f"{playlists.playlists_unchanged:,}"
    yield "Tracks new", f"{result.tracks_created:,}"
    yield "Entries added", f"{playlists.entries_added:,}"
    yield "Entries moved", f"{playlists.entries_moved:,}"
    yield "Entries removed", f"{playlists.entries_removed:,}"
    yield "Entries skipped (local files, episodes, ...)", f"{result.skipped:,}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what *arguments*, by default those of the process, ask for; return the exit code."""
    # SQLAlchemy logs, with tracebacks, what is told in one line here
    logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        code: int | None = app(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        return _fail(" ".join(str(error).split()), USAGE)
    except ZotifyCrudError as error:
        return _fail(str(error), FAILURE)
    return code or SUCCESS


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"{PROGRAM}: {_printable(message)}\n")
    return code


def _printable(text: str) -> str:
    """Escape what is no text: a path may hold line breaks, or what a terminal obeys."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


@contextlib.contextmanager
def _reporter(console: Console) -> Iterator[Reporter]:
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description:14}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("[yellow]{task.fields[remark]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress)


class _Lines:
    """One line for each stage, when it is done."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, line: str) -> None:
        self._console.print(_printable(line), markup=False, highlight=False, soft_wrap=True)

    def show(self, stage: Stage, done: int, total: int, failed: int = 0) -> None:
        del failed  # the table tells
        if done == total:
            self.say(f"{stage}: {total} done")


class _Bars:
    """One bar for each stage, from its first step on."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[Stage, TaskID] = {}

    def say(self, line: str) -> None:
        self._progress.console.print(_printable(line), markup=False, highlight=False)

    def show(self, stage: Stage, done: int, total: int, failed: int = 0) -> None:
        if stage not in self._bars:
            self._bars[stage] = self._progress.add_task(stage, total=total, remark="")
        remark = f"{failed:,} attempts failed" if failed else ""
        self._progress.update(self._bars[stage], completed=done, total=total, remark=remark)


class _Rate(ProgressColumn):
    """Steps in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")


def _show(rows: Iterable[tuple[str, str]], console: Console) -> None:
    table = Table(box=box.ROUNDED, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, value in rows:
        table.add_row(label, value)
    console.print(table)


def _rows(summary: Summary) -> Iterator[tuple[str, str]]:
    downloads = summary.downloads
    yield "Playlists", f"{summary.playlists:,}"
    yield "Tracks", f"{summary.tracks:,}"
    for status, jobs in summary.jobs.by_status.items():
        yield f"Jobs {status.replace('_', ' ')}", f"{jobs:,}"
    yield "Attempts that failed and were retried", f"{summary.failed_attempts:,}"
    yield "Entries skipped (local files, episodes, ...)", f"{summary.skipped:,}"
    yield "Token refreshes", f"{summary.token_refreshes:,}"
    if downloads.completed:
        yield "Downloads in this run", f"{downloads.completed:,} in {downloads.seconds:.1f} s"
        yield "Rate", f"{downloads.rate:,.0f} jobs/s"
        if len(downloads.by_worker) > 1:
            for number, completed in enumerate(downloads.by_worker, 1):
                yield f"Downloads of process {number}", f"{completed:,}"
