"""The command that watches the queue."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json as jsons
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import Annotated, Any, Final, TypeAlias

from cyclopts import Parameter
from cyclopts.validators import Number
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.live import Live
from sqlalchemy import make_url

from zotify_async_crud import _processes
from zotify_async_crud._transactions import Sessions
from zotify_async_crud.cli._database import checked
from zotify_async_crud.cli._options import HERE, AsJson, Target
from zotify_async_crud.cli._output import complain, say
from zotify_async_crud.cli._snapshots import Snapshot, as_lines, take_snapshot
from zotify_async_crud.cli._terminal import obeying_keys
from zotify_async_crud.cli._view import View
from zotify_async_crud.demo._steps import location
from zotify_async_crud.errors import DatabaseError

_INTERVAL: Final = Parameter(help="Seconds between two looks.", validator=Number(gte=0.1))
_ONCE: Final = Parameter(help="Look once, and end.", negative=())
_QUIT: Final = frozenset({"q", "Q", ""})
_REFRESHES: Final = 4
"""In a second. The view follows the size of the terminal so soon."""

_Look: TypeAlias = Snapshot | DatabaseError
_Show: TypeAlias = Callable[[_Look], None]


async def run_watch(
    *,
    target: Target = HERE,
    interval: Annotated[float, _INTERVAL] = 1.0,
    once: Annotated[bool, _ONCE] = False,
    json: AsJson = False,
) -> None:
    """Watch the queue: how long it is, how fast it moves, what runs, and what has failed.

    On a terminal it is a view, until q or Ctrl-C is pressed. Elsewhere it is lines, and with --json
    a JSON document in each line, again and again until a signal comes; the exit code is 0 after
    either. A database that goes away is waited for. Nothing is written to it, and nobody waits.
    """
    console = Console()
    async with checked(target, read_only=True) as sessions:
        first = await take_snapshot(sessions)
        view = View(first, location(make_url(target.database_url)))
        if json or not console.is_terminal or console.is_dumb_terminal:
            write: _Show = write_json if json else write_lines
            write(first)
            if not once:
                await _until_told(_watch(sessions, interval, contextlib.nullcontext(write)))
        elif once:
            console.print(view)
        else:
            await _until_told(_watch(sessions, interval, _screen(console, view)), obeys_keys=True)


async def _watch(
    sessions: Sessions, interval: float, showing: AbstractContextManager[_Show]
) -> None:
    with showing as show:
        while True:
            await asyncio.sleep(interval)
            try:
                look: _Look = await take_snapshot(sessions)
            except DatabaseError as error:
                look = error
            show(look)


async def _until_told(watching: Coroutine[Any, Any, None], *, obeys_keys: bool = False) -> None:
    """Watch until a signal comes, or a key that means the same; both count from the beginning."""
    task = asyncio.create_task(watching)  # it begins below

    async def stop() -> None:
        task.cancel()

    def press(key: str) -> None:
        if key in _QUIT:
            task.cancel()

    keys = obeying_keys(press) if obeys_keys else contextlib.nullcontext()
    with _processes.obeying_signals(stop), keys:
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


@contextlib.contextmanager
def _screen(console: Console, view: View) -> Iterator[_Show]:
    """Fill the terminal with *view*, and with what is seen then; leave it as it was before."""
    view = dataclasses.replace(view, fits=True)
    with Live(view, console=console, screen=True, refresh_per_second=_REFRESHES) as live:

        def show(look: _Look) -> None:
            nonlocal view
            if isinstance(look, Snapshot):
                view = dataclasses.replace(view, snapshot=look, problem=None)
            else:
                view = dataclasses.replace(view, problem=str(look))
            live.update(view, refresh=True)

        yield show


def write_lines(look: _Look) -> None:
    """Write a line for the queue and for each job, or what went wrong."""
    if isinstance(look, DatabaseError):
        complain(str(look))
        return
    for line in as_lines(look):
        say(line)
    sys.stdout.flush()


def write_json(look: _Look) -> None:
    """Write a JSON document in a line, or what went wrong."""
    if isinstance(look, DatabaseError):
        complain(str(look))
        return
    document = to_jsonable_python(look, timedelta_mode="float")
    sys.stdout.write(f"{jsons.dumps(document)}\n")
    sys.stdout.flush()
