"""The loops of a pool that look after leases: its own, and those of workers that are gone."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from zotify_async_crud._tasks import is_set_within
from zotify_async_crud.worker._link import Link
from zotify_async_crud.worker._slots import Slots

_BETWEEN_REPORTS: Final = 1.0
"""Seconds; what handlers report in between is written together."""


class Keeper:
    """Renews the leases of all that a pool holds, until the last of it is written."""

    def __init__(self, link: Link, slots: Slots, lease: float) -> None:
        self._link, self._slots = link, slots
        self._interval = lease / 3
        self._between_reports = min(_BETWEEN_REPORTS, self._interval)
        self._renew_at = time.monotonic() + self._interval
        self._report_at = 0.0

    async def step(self) -> None:
        """Wait until leases or reports are to be written, and write them."""
        if await is_set_within(self._renew_at - time.monotonic(), self._slots.reported):
            await asyncio.sleep(min(self._report_at, self._renew_at) - time.monotonic())
        now = time.monotonic()
        is_time = now >= self._renew_at
        progress = self._slots.reports()
        claims = self._slots.claims() if is_time else list(progress)
        if claims:
            self._slots.renewed(await self._link.renew(claims, progress))
            self._slots.reports_written(progress)
        self._report_at = now + self._between_reports
        if is_time:
            self._renew_at = now + self._interval * random.uniform(0.8, 1)


class Rescuer:
    """Takes jobs from workers that are gone, now and then, as every pool does."""

    def __init__(self, link: Link, lease: float) -> None:
        self._link, self._interval = link, lease / 2

    async def step(self) -> None:
        """Look for leases that are over, and then wait."""
        await self._link.rescue()
        await asyncio.sleep(self._interval * random.uniform(0.75, 1.25))
