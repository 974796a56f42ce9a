"""How many jobs a pool claims ahead of its slots."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import Sessions
from tests.support.pools import drain, enqueue
from zotify_async_crud.worker import Counts


@pytest.mark.parametrize("concurrency", [1, 10])
async def test_a_slow_database_is_asked_for_more_at_a_time(
    engine: AsyncEngine, sessions: Sessions, concurrency: int
) -> None:
    """Jobs that take no time would else wait for it one by one."""
    await enqueue(sessions, 300)
    claims = 0

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def wait(_: object, __: object, statement: str, *___: object) -> None:
        nonlocal claims
        if "status='in_progress'" in statement:
            claims += 1
            time.sleep(0.04)

    assert await drain(sessions, concurrency=concurrency) == Counts(claimed=300, completed=300)
    assert 0 < claims < 60
