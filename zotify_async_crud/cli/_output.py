"""What the commands show: text that a terminal may have, tables, JSON, and progress."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from pydantic_core import to_json
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

from zotify_async_crud.demo import Reporter, Stage

PROGRAM: Final = "zotify-async-crud"


def printable(text: str) -> str:
    """Escape what is no text: a path may hold line breaks, or what a terminal obeys."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def say(line: str) -> None:
    """Write *line* to stdout, whole however narrow the terminal."""
    sys.stdout.write(f"{printable(line)}\n")


def complain(line: str) -> None:
    """Write *line* to stderr, with the name of the program before it."""
    sys.stderr.write(f"{PROGRAM}: {printable(line)}\n")


def show_json(value: Any) -> None:
    """Write *value* to stdout as one JSON document: times in ISO 8601, durations in seconds."""
    document = to_json(value, indent=2, timedelta_mode="float")
    sys.stdout.write(f"{document.decode()}\n")


class WrongUsage(Exception):
    """The command can not be run in this way."""


class Declined(Exception):
    """The user was asked, and said no."""


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal, unless *yes* was given.

    Raises:
        WrongUsage: There is nobody to ask.
        Declined: The answer is another than yes.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise WrongUsage(f"{question} Nobody can answer here: give --yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise Declined("nothing was done")


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show *rows* below *header*, each on a line that no terminal's width cuts."""
    lines = [header, *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(f"{'  '.join(cells).rstrip()}\n")


def show_facts(rows: Iterable[tuple[str, str]], console: Console) -> None:
    """Show *rows* of a name and a value."""
    table = Table(box=box.ROUNDED, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, value in rows:
        table.add_row(label, value)
    console.print(table)


@contextlib.contextmanager
def reporter(console: Console) -> Iterator[Reporter]:
    """Show progress by bars on a terminal, and by a line for each stage elsewhere."""
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
        self._console.print(printable(line), markup=False, highlight=False, soft_wrap=True)

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
        self._progress.console.print(printable(line), markup=False, highlight=False)

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
