"""The books of a pool, where no database can show it."""

from __future__ import annotations

import datetime as dt

from zotify_async_crud.schemas import Claim, Renewal
from zotify_async_crud.worker import ExponentialBackoff, JobContext
from zotify_async_crud.worker._slots import Slots


async def _never_called(_: JobContext) -> None:
    raise AssertionError("no job was claimed")


def test_a_cancellation_of_a_job_that_is_over_changes_nothing() -> None:
    """It may end while the renewal that tells of it is under way."""
    slots = Slots(_never_called, 1, ExponentialBackoff(), None)
    gone = Claim("j", "t", 1, 5, "w", dt.datetime(2031, 1, 1, tzinfo=dt.UTC))

    slots.renewed(Renewal(renewed=[gone], lost=[], cancel_requested=[gone]))

    assert slots.is_idle
    assert not slots.changed.is_set()
