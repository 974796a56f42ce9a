"""Tasks that begin at once, and waits that end in time or not before their time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Final, TypeVar

T = TypeVar("T")

_DAY: Final = 86_400.0

_EAGER: Final[dict[str, Any]] = {"eager_start": True} if sys.version_info >= (3, 12) else {}


def begin(work: Coroutine[Any, Any, T], context: Context | None = None) -> asyncio.Task[T]:
    """Run *work* until it first waits, and the rest of it as a task; before Python 3.12, all of it.

    What never waits is over when this returns, for half of what a turn of the loop costs.
    """
    loop = asyncio.get_running_loop()
    if loop.get_task_factory() is not None:  # the application's own, which may trace tasks
        return loop.create_task(work, context=context)
    return asyncio.Task(work, loop=loop, context=context, **_EAGER)


async def is_set_within(seconds: float | None, event: asyncio.Event) -> bool:
    """Wait until *event* is set; set it after *seconds* if nobody else does, and return False.

    A timeout would break off what waits, by an exception through all of its callers.
    """
    came = True

    def give_up() -> None:
        nonlocal came
        came = event.is_set()
        event.set()

    patience = _DAY if seconds is None else max(0.0, seconds)
    timer = asyncio.get_running_loop().call_later(patience, give_up)
    try:
        await event.wait()
    finally:
        timer.cancel()
    return came


@contextmanager
def first_failure() -> Iterator[None]:
    """Let out a task group's first failure by itself; the other tasks stopped because of it."""
    try:
        yield
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def ended(task: asyncio.Task[Any]) -> None:
    """Wait until *task* has ended, also when the caller is cancelled meanwhile, and tells so then.

    It is for tasks that end soon, and must not be left behind.
    """
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        raise cancellation
