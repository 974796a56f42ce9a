"""How the queue looks on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeVar

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zotify_async_crud.cli._output import PROGRAM, printable
from zotify_async_crud.cli._snapshots import FailedJob, RunningJob, Snapshot

J = TypeVar("J", RunningJob, FailedJob)

_BARS: Final = "▁▂▃▄▅▆▇█"
_GAP: Final = "   "
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_FRAME: Final = 2
"""Lines of a table that hold no job: an empty one, and the header."""


@dataclass(frozen=True, slots=True)
class View:
    """What the terminal shows: *snapshot*, and the *problem* there is with taking another."""

    snapshot: Snapshot
    location: str
    problem: str | None = None

    fits: bool = False
    """Whether to leave out the jobs that there is no room for, and to say how many."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Show what all should know, and as many jobs as there is room for."""
        width = options.max_width
        head: list[ConsoleRenderable] = [_title(self), *_flowing(_facts(self.snapshot), width)]
        if self.problem is not None:
            head.append(_line(f"Not up to date: {self.problem}", "bold red"))
        yield from head
        queue = self.snapshot.queue
        running = _Section("Running", self.snapshot.running, queue.in_progress)
        failed = _Section("Failed", self.snapshot.failed, queue.failed)
        room = options.max_height - len(head) if self.fits else running.height + failed.height
        below = min(failed.height, max(room // 3, room - running.height))
        above = room - below if failed.shown(below) else room
        yield from running.table(_RUNNING, width, above)
        yield from failed.table(_FAILED, width, below)


def _title(view: View) -> Table:
    title = Table.grid(expand=True, padding=(0, 1))
    title.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    title.add_column(no_wrap=True, justify="right")
    where = Text.assemble((PROGRAM, "bold"), "  ", printable(view.location))
    keys = "q quits  " if view.fits else ""
    title.add_row(where, Text.assemble((keys, "dim"), f"{view.snapshot.taken_at:%H:%M:%S} UTC"))
    return title


def _facts(snapshot: Snapshot) -> Iterator[Text]:
    queue = snapshot.queue
    yield _fact("Pending", queue.pending)
    yield _fact("Scheduled", queue.scheduled)
    yield _fact("In progress", queue.in_progress, "cyan")
    yield _fact("Failed", queue.failed, "red")
    yield _fact("Completed in the last minute", queue.completed_last_minute, "green")
    yield Text.assemble((sparkline(snapshot.completed), "green"), f" {queue.rate:,.1f}/s")
    if queue.oldest_pending_age is not None:
        waits = duration(queue.oldest_pending_age.total_seconds())
        yield Text(f"The oldest waits for {waits}")
    if queue.paused:
        yield Text("The queue is paused", "bold yellow")


def _flowing(facts: Iterable[Text], width: int) -> list[Text]:
    """Return *facts* in as few lines as they need, none of them broken."""
    lines: list[Text] = []
    for fact in facts:
        if lines and lines[-1].cell_len + len(_GAP) + fact.cell_len <= width:
            lines[-1].append(_GAP).append_text(fact)
        else:
            lines.append(fact)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _fact(name: str, count: int, style: str = "") -> Text:
    return Text.assemble(f"{name} ", (f"{count:,}", f"bold {style}" if count else ""))


def _line(text: str, style: str) -> Text:
    return Text(printable(text), style, no_wrap=True, overflow="ellipsis")


@dataclass(frozen=True, slots=True)
class _Column(Generic[J]):
    """A column of a table, in terminals of some width at least."""

    name: str
    cell: Callable[[J], ConsoleRenderable | str]
    terminal: int = 0
    ratio: int | None = None
    justify: Literal["left", "right"] = "left"

    @property
    def options(self) -> dict[str, Any]:
        """What the table has to know."""
        return {
            "ratio": self.ratio,
            "justify": self.justify,
            "no_wrap": True,
            "overflow": "ellipsis",
        }


@dataclass(frozen=True, slots=True)
class _Section(Generic[J]):
    """A table of jobs, which may be some of *total*."""

    name: str
    jobs: Sequence[J]
    total: int

    @property
    def height(self) -> int:
        """How many lines it takes, where there is room for all."""
        if not self.jobs:
            return 0
        return _FRAME + len(self.jobs) + (len(self.jobs) < self.total)

    def shown(self, room: int) -> Sequence[J]:
        """Return the jobs that fit into *room* lines."""
        return self.jobs if self.height <= room else self.jobs[: max(0, room - _FRAME - 1)]

    def table(
        self, columns: Sequence[_Column[J]], width: int, room: int
    ) -> Iterator[ConsoleRenderable]:
        """Yield what fits into *room* lines of *width*; nothing, if that is no job."""
        shown = self.shown(room)
        if not shown:
            return
        fitting = [column for column in columns if column.terminal <= width]
        table = Table(box=None, expand=True, pad_edge=False, header_style="bold")
        for number, column in enumerate(fitting):
            header = column.name if number else f"{self.name} {self.total:,}"
            table.add_column(header, **column.options)
        for job in shown:
            table.add_row(*(column.cell(job) for column in fitting))
        yield Text()
        yield table
        if len(shown) < self.total:
            yield _line(f"and {self.total - len(shown):,} more", "dim")


def _bar(job: RunningJob) -> ProgressBar:
    return ProgressBar(total=1.0, completed=job.progress, width=16)


def _lease(job: RunningJob) -> Text:
    if job.lease_seconds is None:
        return Text("none", "dim")
    if job.lease_seconds < 0:
        return Text(f"over for {duration(-job.lease_seconds)}", "bold red")
    left = Text(f"{duration(job.lease_seconds)} left")
    return left.append(", to be cancelled", "yellow") if job.cancel_requested else left


def _attempt(job: RunningJob | FailedJob) -> str:
    return f"{job.attempt}/{job.max_attempts}"


def _track(job: RunningJob | FailedJob) -> Text:
    return Text(printable(job.track_id))


def _worker(job: RunningJob) -> Text:
    return Text(printable(job.worker_id or ""))


def _error(job: FailedJob) -> Text:
    return Text(printable(" ".join((job.error or "").split())), "red")


def _since(job: RunningJob | FailedJob) -> str:
    return "" if job.seconds is None else duration(job.seconds)


_RUNNING: Final[Sequence[_Column[RunningJob]]] = (
    _Column("Track", _track, ratio=2),
    _Column("Attempt", _attempt, 60, justify="right"),
    _Column("Worker", _worker, 100, ratio=2),
    _Column("Progress", _bar, 70),
    _Column("", lambda job: f"{job.progress:.0%}", justify="right"),
    _Column("For", _since, 50, justify="right"),
    _Column("Lease", _lease, 40),
)
_FAILED: Final[Sequence[_Column[FailedJob]]] = (
    _Column("Track", _track, ratio=1),
    _Column("Attempt", _attempt, 60, justify="right"),
    _Column("Ago", _since, 50, justify="right"),
    _Column("Error", _error, 40, ratio=2),
)


def sparkline(counts: Sequence[int]) -> str:
    """Return a bar for each of *counts*, of which the highest stands for the greatest."""
    most = max(counts, default=0) or 1
    return "".join(_BARS[round(count / most * (len(_BARS) - 1))] for count in counts)


def duration(seconds: float) -> str:
    """Return *seconds* in the two units that count."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY:,} d {whole % _DAY // _HOUR} h"
