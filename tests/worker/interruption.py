"""Interrupts what works in several tasks, such as a pool, at any step of any of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

from tests.support.faults import Moment


class Interruption:
    """Calls a function where any task that was made in its block waits for the *step*-th time.

    A pool works in several tasks: their steps are counted together, from 0.
    """

    def __init__(self, step: int, moment: Moment) -> None:
        self._step, self._moment = step, moment
        self._interrupt: Callable[[], object] = lambda: None
        self._count = 0
        self.happened = False

    @contextlib.contextmanager
    def of(self, interrupt: Callable[[], object]) -> Iterator[None]:
        """Count in the tasks that are made in this block, and call *interrupt* when it is time."""
        self._interrupt = interrupt
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()

        def make(loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
            return asyncio.Task(_Counted(coroutine, self), loop=loop, **options)

        loop.set_task_factory(make)
        try:
            yield
        finally:
            loop.set_task_factory(before)

    def waits(self, waits_for: asyncio.Future[Any] | None) -> None:
        """Count one more step, of a task that now waits for *waits_for*."""
        step, self._count = self._count, self._count + 1
        if step == self._step:
            self.happened = True
            if waits_for is None or self._moment == "while it waits":
                self._interrupt()
            else:  # called before the task itself learns of the answer
                waits_for.add_done_callback(lambda _: self._interrupt())


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine that tells of each of its steps."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], interruption: Interruption) -> None:
        self._coroutine, self._interruption = coroutine, interruption
        self.cr_code = getattr(coroutine, "cr_code", None)
        self.__name__ = self.__qualname__ = getattr(coroutine, "__qualname__", repr(coroutine))

    def send(self, value: Any) -> Any:
        waits_for = self._coroutine.send(value)
        self._interruption.waits(waits_for)
        return waits_for

    def throw(self, *error: Any) -> Any:
        waits_for = self._coroutine.throw(*error)
        self._interruption.waits(waits_for)
        return waits_for

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()
