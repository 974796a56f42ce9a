"""Plans: a sync takes as many steps as it writes rows, whatever is known of its tables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.support.factories import Sessions, playlist_data, statements_sent
from tests.support.faults import is_sqlite
from zotify_async_crud import crud, migrations

TRACKS: Final = [f"track-{number:04}" for number in range(1_000)]
CHANGES: Final = {"moved": ("UPDATE", TRACKS[::-1]), "removed": ("DELETE", TRACKS[::2])}


@pytest.mark.parametrize("change", CHANGES)
async def test_no_row_is_looked_for_among_all_that_are_given(
    engine: AsyncEngine, sessions: Sessions, change: str
) -> None:
    """Or a long list would take as many steps as it has pairs.

    The tables are new, so that PostgreSQL takes a playlist for a few rows, and its plan is the one
    for any values, since it knows how many are given when it makes one for them.
    """
    verb, track_ids = CHANGES[change]
    await migrations.downgrade(engine, "base")  # and with it what was counted
    await migrations.upgrade(engine)
    async with sessions.begin() as db:
        await crud.sync_playlists(db, [playlist_data(track_ids=TRACKS)])
    async with sessions() as db:
        with statements_sent(engine) as sent:
            await crud.sync_playlists(db, [playlist_data(track_ids=track_ids)])
        await db.rollback()
    ((statement, parameters),) = (each for each in sent if each[0].startswith(verb))

    async with engine.connect() as connection:
        if is_sqlite(engine):
            plan = f"EXPLAIN QUERY PLAN {statement}"
            steps = [row[-1] for row in await connection.exec_driver_sql(plan, parameters)]
            assert [step for step in steps if step.startswith("SCAN playlist_tracks")] == []
        else:
            assert await _most_rows(connection, statement, parameters) <= 2 * len(TRACKS)


async def _most_rows(connection: AsyncConnection, statement: str, parameters: Any) -> int:
    """Return how many rows the busiest step of PostgreSQL's plan for any values looks at."""
    values = ", ".join(f"'{value}'" for value in parameters)
    await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
    await connection.exec_driver_sql(f"PREPARE written AS {statement}")
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE written ({values})"
    found = (await connection.exec_driver_sql(explain)).scalar_one()
    await connection.exec_driver_sql("DEALLOCATE written")
    await connection.rollback()
    (plan,) = found if isinstance(found, list) else json.loads(found)
    return max(_rows(plan["Plan"]))


def _rows(plan: dict[str, Any]) -> Iterator[int]:
    removed = sum(plan.get(f"Rows Removed by {what}", 0) for what in ("Filter", "Join Filter"))
    yield round((plan["Actual Rows"] + removed) * plan["Actual Loops"])
    for child in plan.get("Plans", ()):
        yield from _rows(child)
