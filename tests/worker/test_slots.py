"""The books of a pool, where no database can show it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, Final

import pytest

from zotify_async_crud.schemas import Claim, Renewal
from zotify_async_crud.worker import ExponentialBackoff, JobContext, _slots
from zotify_async_crud.worker._slots import Slots


async def _does_nothing(_: JobContext) -> None:
    pass


async def _never_called(_: JobContext) -> None:
    raise AssertionError("no job was claimed")


CLAIM: Final = Claim("j", "t", 1, 5, "w", dt.datetime(2031, 1, 1, tzinfo=dt.UTC))


def test_a_cancellation_of_a_job_that_is_over_changes_nothing() -> None:
    """It may end while the renewal that tells of it is under way."""
    slots = Slots(_never_called, 1, ExponentialBackoff(), None)

    slots.renewed(Renewal(renewed=[CLAIM], lost=[], cancel_requested=[CLAIM]))

    assert slots.is_idle
    assert not slots.changed.is_set()


def test_a_lost_lease_of_a_job_that_is_over_changes_nothing() -> None:
    """Its end may be on the way while the renewal that tells of it is."""
    slots = Slots(_never_called, 1, ExponentialBackoff(), None)

    slots.renewed(Renewal(renewed=[], lost=[CLAIM], cancel_requested=[]))

    assert slots.is_idle
    assert slots.counts.lost == 0


async def test_a_handler_that_never_waits_makes_room_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One slot is enough for many of them in one turn of the loop, as from Python 3.12 on."""

    def run(work: Coroutine[Any, Any, Any], _: Context) -> asyncio.Future[Any]:
        over = asyncio.get_running_loop().create_future()
        with pytest.raises(StopIteration) as ended:
            work.send(None)
        over.set_result(ended.value.value)
        return over

    monkeypatch.setattr(_slots, "begin", run)
    monkeypatch.setattr(_slots, "_LONGEST_TURN", 3_600.0)  # whatever else the machine does
    slots = Slots(_does_nothing, 1, ExponentialBackoff(), None)
    slots.add([CLAIM._replace(job_id=f"j{number}") for number in range(3)])
    assert slots.unwritten == 0
    await asyncio.sleep(0)
    assert [attempt.claim.job_id for attempt in slots.take_over()] == ["j0", "j1", "j2"]
