"""What the commands show: text that a terminal may have, tables, JSON, and progress."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic_core import to_jsonable_python
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

_ENDLESS: Final = 1_000_000


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
    plain = to_jsonable_python(value, timedelta_mode="float")
    # ASCII, which is UTF-8 whatever the encoding of stdout
    sys.stdout.write(f"{json.dumps(plain, indent=2)}\n")


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Show *rows* below *header*, each on a line that no terminal's width cuts."""
    lines = [header, *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(f"{'  '.join(cells).rstrip()}\n")


def show_record(record: Mapping[str, Any]) -> None:
    """Show the fields of *record*, whose names are those of the JSON document."""
    show_facts((name.replace("_", " ").capitalize(), _shown(record[name])) for name in record)


def show_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Show *facts*, a name and a value each: in a box if that fits, or else in whole lines."""
    console, table = _Console(), Table(box=box.ROUNDED, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    lines = [(label, printable(value)) for label, value in facts]
    for label, value in lines:
        table.add_row(Text(label), Text(value))
    unbounded = console.options.update(width=_ENDLESS)
    if console.measure(table, options=unbounded).maximum <= console.width:
        console.print(table)
        return
    for label, value in lines:
        say(f"{label}: {value}")


def _shown(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S %Z}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # which has an exit code of its own


@contextlib.contextmanager
def reporter(*, stderr: bool = False) -> Iterator[Reporter]:
    """Show progress by bars on a terminal, and by a line for each stage elsewhere."""
    console = _Console(stderr=stderr)
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
