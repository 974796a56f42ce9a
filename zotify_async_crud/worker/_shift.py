"""One run of a pool: its loops, and the ways to end them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from zotify_async_crud import events
from zotify_async_crud.database import translated_errors
from zotify_async_crud.worker._feeder import Feeder
from zotify_async_crud.worker._keeper import Keeper, Rescuer
from zotify_async_crud.worker._link import Link
from zotify_async_crud.worker._slots import Slots
from zotify_async_crud.worker._supervision import keep_going

_LOG: Final = logging.getLogger("zotify_async_crud.worker")
_GRACE: Final = 5.0
"""Seconds that handlers have to end once they are cancelled, and then the last writes."""


class Shift:
    """Runs the loops of a pool until its feeder is done."""

    def __init__(self, link: Link, slots: Slots, feeder: Feeder) -> None:
        self._link, self._slots, self._feeder = link, slots, feeder
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._feeding: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._over = asyncio.Event()

    async def work(self, lease: float, listen_every: float | None) -> None:
        """Run until the feeder is done, or until this is cancelled and all is given back."""
        feeder = self._feeder
        self._feeding = self._start("feeding", feeder.step, lambda: feeder.is_done, fatal=True)
        others = [
            self._start("renewal", Keeper(self._link, self._slots, lease).step),
            self._start("rescue", Rescuer(self._link, lease).step),
        ]
        if listen_every is not None and self._link.engine is not None:
            others.append(asyncio.create_task(self._listen(listen_every)))
        try:
            with events.watching(self._link.bind, self._wake):
                await self._until_fed(self._feeding)
        finally:
            for timer in self._timers:
                timer.cancel()
            for task in (self._feeding, *others):
                task.cancel()
            await asyncio.wait((self._feeding, *others))
            await feeder.close()
            self._over.set()

    async def _until_fed(self, feeding: asyncio.Task[None]) -> None:
        try:
            await asyncio.wait({feeding})
        except asyncio.CancelledError:
            self._feeder.stop()
            self._hurry()
            await asyncio.wait({feeding})  # by _hurry's timers, not for long
            raise
        if not feeding.cancelled():
            feeding.result()

    async def stop(self, timeout: float) -> None:
        """Let the handlers end, for *timeout* seconds at most; at once if it was said before."""
        if self._timers:
            self._hurry()
        else:
            self._feeder.stop()
            self._timers.append(self._loop.call_later(timeout, self._hurry))
        await self._over.wait()

    def _hurry(self) -> None:
        self._slots.cancel_running()
        self._timers.append(self._loop.call_later(_GRACE, self._abandon))

    def _abandon(self) -> None:
        self._slots.abandon_running()
        self._timers.append(self._loop.call_later(_GRACE, self._give_up))

    def _give_up(self) -> None:
        _LOG.error("what is over could not be written in time: the jobs will run again")
        assert self._feeding is not None
        self._feeding.cancel()

    def _start(
        self,
        name: str,
        step: Callable[[], Awaitable[None]],
        done: Callable[[], bool] = lambda: False,
        *,
        fatal: bool = False,
    ) -> asyncio.Task[None]:
        return asyncio.create_task(keep_going(name, step, done, fatal=fatal), name=f"zotify-{name}")

    async def _listen(self, interval: float) -> None:
        engine, nothing_to_hear = self._link.engine, False

        async def listen() -> None:
            nonlocal nothing_to_hear
            with translated_errors():
                await events.watch_others(engine, self._wake, interval=interval)
            nothing_to_hear = True

        await keep_going("listening", listen, lambda: nothing_to_hear)

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._feeder.wake()
        else:  # a commit in another thread, with a loop of its own
            self._loop.call_soon_threadsafe(self._feeder.wake)
