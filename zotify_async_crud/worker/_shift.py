"""One run of a pool: its loops, and the ways to end them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from zotify_async_crud import events
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
        self._timers: list[asyncio.TimerHandle] = []
        self._over = asyncio.Event()

        self._feeding = asyncio.create_task(self._feed(), name="zotify-feeding")

    async def work(self, lease: float, listen_every: float | None) -> None:
        """Run until the feeder is done, or until this is cancelled and all is given back."""
        others = [
            asyncio.create_task(keep_going("renewal", Keeper(self._link, self._slots, lease).step)),
            asyncio.create_task(keep_going("rescue", Rescuer(self._link, lease).step)),
        ]
        engine = self._link.engine
        if listen_every is not None and engine is not None:
            others.append(asyncio.create_task(self._listen(engine, listen_every)))
        try:
            with events.watching(self._link.bind, self._wake):
                await self._until_fed()
        finally:
            for timer in self._timers:
                timer.cancel()
            try:
                await self._end((self._feeding, *others))
            finally:
                self._over.set()

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Leave no task behind, also where this is cancelled meanwhile."""
        ending = asyncio.create_task(self._cancel(tasks))
        cancellation: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.shield(ending)
            except asyncio.CancelledError as error:
                cancellation = error
        if cancellation is not None:
            raise cancellation

    async def _cancel(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await self._feeder.close()
        await self._link.close()

    async def _feed(self) -> None:
        feeder = self._feeder
        await keep_going(
            "feeding", feeder.step, lambda: feeder.is_done, lambda: feeder.has_exchanged
        )

    async def _until_fed(self) -> None:
        try:
            await asyncio.wait({self._feeding})
        except asyncio.CancelledError:
            self._feeder.stop()
            self._hurry()
            await asyncio.wait({self._feeding})  # by _hurry's timers, not for long
            raise
        if not self._feeding.cancelled():
            self._feeding.result()

    async def stop(self, patience: float) -> None:
        """Let the handlers end, for *patience* seconds at most; at once if it was said before."""
        if self._timers:
            self._hurry()
        else:
            self._feeder.stop()
            self._timers.append(self._loop.call_later(patience, self._hurry))
        await self._over.wait()

    def _hurry(self) -> None:
        self._slots.cancel_running()
        self._timers.append(self._loop.call_later(_GRACE, self._abandon))

    def _abandon(self) -> None:
        self._slots.abandon_running()
        self._timers.append(self._loop.call_later(_GRACE, self._give_up))

    def _give_up(self) -> None:
        _LOG.error("what is over could not be written in time: the jobs will run again")
        self._feeding.cancel()

    async def _listen(self, engine: AsyncEngine, interval: float) -> None:
        nothing_to_hear = False

        async def listen() -> None:
            nonlocal nothing_to_hear
            await events.watch_others(engine, self._wake, interval=interval)
            nothing_to_hear = True

        await keep_going("listening", listen, lambda: nothing_to_hear)

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._feeder.wake()
        else:  # a commit in another thread, with a loop of its own
            self._loop.call_soon_threadsafe(self._feeder.wake)
