"""The one loop of a pool that writes what is over and claims what is next."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from zotify_async_crud._dialects import MOST_AT_ONCE
from zotify_async_crud._tasks import begin, is_set_within
from zotify_async_crud.schemas import DownloadJobStatus, Settlement
from zotify_async_crud.worker._jobs import Attempt
from zotify_async_crud.worker._link import Link
from zotify_async_crud.worker._slots import Slots

_LOG: Final = logging.getLogger("zotify_async_crud.worker")

_AHEAD: Final = 0.03
"""Seconds of work that may be claimed ahead of free slots, beside that of some exchanges."""

_MOST_AHEAD: Final = 2_000
"""Jobs that may be claimed ahead, however short they are."""

_SOON: Final = 1.0
"""Seconds in which at least one of the jobs that were claimed ahead must have begun."""

_ELSEWHERE: Final = 0.03
"""Seconds until a pool that drains looks again for jobs that other transactions hold."""

_EXCHANGES: Final = 2
"""Exchanges at the same time, where jobs are so short that the pool would wait for each."""


class Feeder:
    """Feeds the slots of a pool from the queue: writes what is over, and claims what is next."""

    def __init__(
        self, link: Link, slots: Slots, size: int, interval: float, *, until_idle: bool
    ) -> None:
        self._link, self._slots, self._size, self._until_idle = link, slots, size, until_idle
        self._interval = interval
        self._pace = _Pace()
        self._exchanges: deque[asyncio.Task[None]] = deque()  # as they were sent
        self._coming = 0  # jobs that they may bring
        self._abounds = False  # whether the last brought all that it asked for
        self._hungry = True  # whether the queue may have more than it gave the last time
        self._unsure = False  # whether a reply was lost that may have brought claims
        self._stopping = False
        self._drained = False
        self.has_exchanged = False
        # when to look, by time.perf_counter, if nobody wakes it before; None if it has to ask
        self._look_at: float | None = None
        self._asked = False  # whether the next look is the one after it has asked
        self._expects = False  # whether a job is due when it is time to look

    def wake(self) -> None:
        """Look into the queue at once."""
        self._hungry, self._asked = True, False
        self._slots.changed.set()

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping = True
        self._slots.stop()

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do."""
        return (self._stopping or self._drained) and self._is_idle

    @property
    def _is_idle(self) -> bool:
        return self._slots.is_idle and not self._exchanges

    async def step(self) -> None:
        """Begin an exchange if there is one to make, or wait until there is."""
        self._collect()
        if self.is_done:
            return
        if self._unsure and not self._exchanges:
            await self._recover()
        room = self._room()
        if self._is_worthwhile(room):
            self._begin(room)
        elif self._exchanges:
            await self._wait(None)
        elif self._until_idle and not self._hungry and self._is_idle:
            await self._find_out_if_drained()
        else:
            await self._rest(room)

    async def close(self) -> None:
        """Break off what is under way."""
        for exchange in self._exchanges:
            exchange.cancel()
        await asyncio.gather(*self._exchanges, return_exceptions=True)

    def _room(self) -> int:
        if self._stopping:
            return 0
        ahead = self._pace.jobs_ahead
        room = self._size + ahead - self._slots.taken - self._coming
        # by halves: one is worked off while the other is fetched
        most = (self._size + ahead + 1) // 2 if ahead else self._size
        return min(max(0, room), most, MOST_AT_ONCE)

    def _is_worthwhile(self, room: int) -> bool:
        """Tell whether to make another exchange: the first for anything, a second for many jobs."""
        if not self._exchanges:
            return self._slots.unwritten > 0 or (self._hungry and room > 0)
        many = max(self._size, self._pace.jobs_ahead // 4)
        return self._may_overlap and min(room, self._slots.unwritten) >= many

    @property
    def _may_overlap(self) -> bool:
        """Whether a second exchange may be made: where one handler runs, the order is strict.

        A claim that overtakes another on its way to the database brings the earlier jobs.
        """
        is_strict = self._size == 1 or not self._link.may_overlap
        return self._abounds and not is_strict and len(self._exchanges) < _EXCHANGES

    def _begin(self, room: int) -> None:
        forgets = room > 0 and self._hungry and not self._asked
        sent = _Sent(self._slots.take_over(), room, forgets, list(self._exchanges))
        if room:
            self._hungry = self._asked = False  # a wake-up from now on counts
        self._coming += room
        exchange = begin(self._exchange(sent))
        self._exchanges.append(exchange)
        exchange.add_done_callback(lambda _: self._slots.changed.set())

    def _collect(self) -> None:
        """Forget the exchanges that are over, and raise what went wrong in one of them."""
        while self._exchanges and self._exchanges[0].done():
            self._exchanges.popleft().result()

    async def _exchange(self, sent: _Sent) -> None:
        written = [attempt.settlement for attempt in sent.over]
        started = time.perf_counter()
        try:
            exchange = await self._link.exchange(written, sent.room)
        except BaseException:
            self._coming -= sent.room
            self._slots.put_back(sent.over)
            self._hungry, self._unsure = True, self._unsure or sent.room > 0
            raise
        took = time.perf_counter() - started
        if sent.before:  # what was asked for first is to begin first
            await asyncio.wait(sent.before)
        self._coming -= sent.room
        self._take_note(sent, written, took, len(exchange.claims))
        self._slots.exchanged(sent.over, exchange)

    def _take_note(
        self, sent: _Sent, written: Sequence[Settlement], took: float, claimed: int
    ) -> None:
        self.has_exchanged = True
        done = sum(settled.outcome is not DownloadJobStatus.PENDING for settled in written)
        self._pace.count(done, took)
        self._abounds = claimed == sent.room > 0
        self._hungry = self._hungry or self._abounds
        if sent.forgets:
            self._look_at = None
        self._expect_back(written, time.perf_counter())

    def _expect_back(self, written: Sequence[Settlement], now: float) -> None:
        """See to it that what failed just now is begun again as soon as it is due."""
        waits = [s.retry_in.total_seconds() for s in written if s.retry_in is not None]
        if waits and self._look_at is not None:
            self._look_at = min(self._look_at, now + min(waits))
            self._expects = True

    async def _recover(self) -> None:
        """Take over what a claim brought whose reply was lost."""
        known = {(claim.job_id, claim.attempt) for claim in self._slots.claims()}
        found = await self._link.claimed()
        self._unsure = False
        self._slots.add([claim for claim in found if (claim.job_id, claim.attempt) not in known])

    async def _find_out_if_drained(self) -> None:
        self._drained = await self._link.is_drained()
        if not self._drained:  # another transaction holds the rest
            await self._wait(_ELSEWHERE)
            self._hungry = True

    async def _rest(self, room: int) -> None:
        """Wait for a change, and with room for more, no longer than until it is time to look."""
        if self._slots.has_waiting:
            await self._reconsider()
            return
        if not room:
            await self._wait(None)
            return
        if self._look_at is None:
            # then once more: what becomes due before the answer is not in it
            self._look_at = time.perf_counter() + await self._time_to_look()
            self._asked, self._hungry = not self._hungry, True
        elif await self._wait(self._look_at - time.perf_counter()):
            return
        elif self._expects:
            self._hungry = True
        else:
            self._look_at = None  # to ask before it looks makes one look do

    async def _reconsider(self) -> None:
        """Give back what was claimed ahead if it does not begin soon: its jobs are long ones."""
        if not await self._wait(_SOON):
            self._pace.forget()
            self._slots.release_waiting()

    async def _time_to_look(self) -> float:
        interval = self._interval * random.uniform(1, 1.25)
        due = await self._link.time_until_next()
        self._expects = due is not None and due.total_seconds() <= interval
        return due.total_seconds() if due is not None and self._expects else interval

    async def _wait(self, seconds: float | None) -> bool:
        """Wait until something changes; return False if nothing did in *seconds*."""
        changed = await is_set_within(seconds, self._slots.changed)
        self._slots.changed.clear()
        return changed


class _Sent(NamedTuple):
    """An exchange on its way: what it writes, and how many jobs it may bring."""

    over: list[Attempt]
    room: int
    forgets: bool
    """Whether its answer is newer than what is known of the next job that becomes due."""
    before: Sequence[asyncio.Task[None]]
    """Those on their way already."""


class _Pace:
    """How fast jobs get done, and so how many to claim ahead of free slots.

    Short jobs would otherwise wait for the database most of the time. Long ones are never claimed
    ahead: another worker could have begun them.
    """

    def __init__(self) -> None:
        self._rate = 0.0
        self._exchange = 0.0
        self._since = time.perf_counter()

    @property
    def jobs_ahead(self) -> int:
        # What one exchange brings has to last until the next has come, which makes two of them. By
        # a third it grows where the rate is low because jobs come one by one.
        return min(_MOST_AHEAD, int(self._rate * (_AHEAD + 3 * self._exchange)))

    def forget(self) -> None:
        self._rate = 0.0

    def count(self, jobs: int, exchange: float) -> None:
        now = time.perf_counter()
        elapsed, self._since = now - self._since, now
        self._rate += (jobs / elapsed - self._rate) / 2
        self._exchange += (exchange - self._exchange) / 2
