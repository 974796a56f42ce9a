"""Query plans: the queue stays fast in a table of a hundred thousand finished jobs.

What is explained is what the coroutines send, caught on its way to the driver.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.support.factories import Sessions, statements_sent
from zotify_async_crud import crud
from zotify_async_crud.crud._pages import encode_key
from zotify_async_crud.schemas import DownloadJobStatus

COUNT: Final = 100_000
FEW: Final = 4
NUMBERS: Final = {
    "postgresql": f"SELECT number FROM generate_series(1, {COUNT}) AS numbers(number)",
    "sqlite": (
        "WITH RECURSIVE numbers(number) AS"
        f" (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {COUNT})"
        " SELECT number FROM numbers"
    ),
}
MOMENT: Final = {
    "postgresql": "timestamptz '2024-01-01 00:00:00+00' + number * interval '1 second'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', '2024-01-01', '+' || number || ' seconds')",
}
STATUS: Final = (
    f"CASE WHEN number % {COUNT // FEW} = 0 THEN 'pending'"
    f" WHEN number % {COUNT // FEW} = 1 THEN 'failed'"
    f" WHEN number % {COUNT // FEW} = 2 THEN 'in_progress' ELSE 'completed' END"
)

Ask = Callable[[AsyncSession], Awaitable[object]]


async def _fill(engine: AsyncEngine, *, backlog: int = 0, analyze: bool) -> None:
    """Commit completed jobs, a few of the other statuses, and *backlog* pending ones last."""
    name = engine.dialect.name
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO download_jobs (job_id, track_id, status, created_at)"
                f" SELECT 'job-' || number, 't',"
                f" CASE WHEN number > {COUNT - backlog} THEN 'pending' ELSE {STATUS} END,"
                f" {MOMENT[name]} FROM ({NUMBERS[name]}) AS numbers"
            )
        )
        if analyze:
            await connection.execute(text("ANALYZE"))


async def _sent(engine: AsyncEngine, sessions: Sessions, ask: Ask) -> tuple[str, Any]:
    """Return the statement that *ask* sends about jobs, with its parameters."""
    async with sessions() as db:
        with statements_sent(engine) as sent:
            await ask(db)
    (statement,) = [each for each in sent if "FROM download_jobs \nWHERE" in each[0]]
    return statement


async def _plans(engine: AsyncEngine, statement: str, parameters: Any) -> dict[str, str]:
    """Return how the database runs *statement*, for each way that it comes to plan it."""
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return {"only": "\n".join(str(row[-1]) for row in rows)}
        explain = "EXPLAIN (FORMAT JSON)"
        first = await connection.exec_driver_sql(f"{explain} {statement}", parameters)
        plans = {"first": str(first.scalar_one())}
        values = ", ".join(f"'{value}'" for value in parameters)
        execute = f"EXECUTE asked ({values})" if values else "EXECUTE asked"
        await connection.exec_driver_sql(f"PREPARE asked AS {statement}")
        for _ in range(7):  # after five, PostgreSQL may plan without the values
            await connection.exec_driver_sql(execute)
        often = await connection.exec_driver_sql(f"{explain} {execute}")
        plans["often"] = str(often.scalar_one())
        await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
        generic = await connection.exec_driver_sql(f"{explain} {execute}")
        plans["generic"] = str(generic.scalar_one())
        await connection.exec_driver_sql("DEALLOCATE asked")
        return plans


async def _pick_up(db: AsyncSession) -> object:
    return await crud.get_next_pending_download_job(db)


async def _list_failed(db: AsyncSession) -> object:
    return await crud.list_download_jobs(db, status=DownloadJobStatus.FAILED, limit=50)


async def _list_middle(db: AsyncSession) -> object:
    middle = encode_key(dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC), f"job-{COUNT // 2}")
    return await crud.list_download_jobs(db, limit=50, after=middle)


async def _list_newest(db: AsyncSession) -> object:
    return await crud.list_download_jobs(db, limit=50)


INDEXES: Final[list[tuple[Ask, str]]] = [
    (_pick_up, "ix_download_jobs_pending"),
    (_list_failed, "ix_download_jobs_failed"),
    (_list_middle, "ix_download_jobs_created"),
]
READS_TOO_MUCH: Final = ("Seq Scan", "TEMP B-TREE", "SCAN download_jobs\n", "rowid")
SORTS: Final = ("'Sort'", '"Sort"')


@pytest.mark.parametrize("analyze", [False, True], ids=["before ANALYZE", "after ANALYZE"])
async def test_a_few_jobs_among_many_finished_ones_are_found_by_their_index(
    engine: AsyncEngine, sessions: Sessions, *, analyze: bool
) -> None:
    """With and without statistics, at first and when the statement has been used often."""
    await _fill(engine, analyze=analyze)

    for ask, index in INDEXES:
        statement, parameters = await _sent(engine, sessions, ask)
        plans = await _plans(engine, statement, parameters)

        assert [name for name, plan in plans.items() if index not in plan] == [], plans
        assert [slow for slow in READS_TOO_MUCH if slow in f"{plans}\n"] == [], plans


@pytest.mark.parametrize("analyze", [False, True], ids=["before ANALYZE", "after ANALYZE"])
async def test_a_long_backlog_is_not_sorted_to_find_its_oldest_job(
    engine: AsyncEngine, sessions: Sessions, *, analyze: bool
) -> None:
    """The index has the order already."""
    await _fill(engine, backlog=COUNT // 5, analyze=analyze)

    for ask, index in ((_pick_up, INDEXES[0][1]), (_list_middle, INDEXES[2][1])):
        statement, parameters = await _sent(engine, sessions, ask)
        plans = await _plans(engine, statement, parameters)

        assert [name for name, plan in plans.items() if index not in plan] == [], plans
        assert [slow for slow in (*READS_TOO_MUCH, *SORTS) if slow in f"{plans}\n"] == [], plans
