"""Syncs, readers and deletions at the same time, for half a minute."""

from __future__ import annotations

import asyncio
import time

from tests.concurrency.sync_storm import Storm
from tests.support.factories import Sessions
from zotify_async_crud import database


async def test_half_a_minute_of_overlapping_syncs_meets_no_error(
    url: str, sessions: Sessions
) -> None:
    """No deadlock, no torn playlist, and nothing that a caller has to try again."""
    engine = database.create_engine(url, read_only=True)
    reading = database.create_session_factory(engine)
    end = time.monotonic() + 30
    storm = Storm(sessions, reading, lambda _: time.monotonic() < end)
    try:
        async with asyncio.timeout(200):
            await storm.rage()
    finally:
        await engine.dispose()
    assert storm.syncs > 100
