"""Plans: the queue stays fast in a table of a hundred thousand finished jobs.

What is explained is what the coroutines send, caught on its way to the driver.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from tests.support.factories import (
    LEASE,
    Sessions,
    claim_jobs,
    completed,
    new_claim,
    new_job,
    released,
    statements_sent,
)
from tests.support.faults import is_sqlite
from zotify_async_crud import crud, migrations
from zotify_async_crud.crud._pages import encode_key
from zotify_async_crud.schemas import Claim, DownloadJobStatus

COUNT: Final = 100_000
FEW: Final = 4
MOMENT: Final = {
    "postgresql": "timestamptz '2024-01-01 00:00:00+00' + number * interval '1 second'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', '2024-01-01', '+' || number || ' seconds')",
}
TOMORROW: Final = {
    "postgresql": "now() + interval '1 day'",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now', '+1 day')",
}
STATUS: Final = (
    f"CASE WHEN number % {COUNT // FEW} = 0 THEN 'pending'"
    f" WHEN number % {COUNT // FEW} = 1 THEN 'failed'"
    f" WHEN number % {COUNT // FEW} = 2 THEN 'in_progress' ELSE 'completed' END"
)
ANALYZE: Final = pytest.mark.parametrize(
    "analyze", [False, True], ids=["before ANALYZE", "after ANALYZE"]
)


def _numbers(dialect: str, count: int) -> str:
    if dialect == "postgresql":
        return f"(SELECT number FROM generate_series(1, {count}) AS numbers(number)) AS numbers"
    return (
        "(WITH RECURSIVE numbers(number) AS"
        f" (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < {count})"
        " SELECT number FROM numbers) AS numbers"
    )


async def _fill(engine: AsyncEngine, *, backlog: int = 0, tomorrow: int = 0, analyze: bool) -> None:
    """Commit completed jobs, a few of the other statuses, and *backlog* pending ones last.

    Beside them *tomorrow* jobs of a higher priority wait that are not due today.
    """
    dialect = engine.dialect.name
    moment = MOMENT[dialect]
    # what earlier tests let the server count stays with a table that is emptied
    await migrations.downgrade(engine, "base")
    await migrations.upgrade(engine)
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO download_jobs"
                " (job_id, track_id, is_unique, status, created_at, finished_at)"
                " SELECT 'job-' || number, 't' || number, true, status, moment,"
                " CASE WHEN status IN ('completed', 'failed') THEN moment END"
                f" FROM (SELECT number, {moment} AS moment,"
                f" CASE WHEN number > {COUNT - backlog} THEN 'pending' ELSE {STATUS} END AS status"
                f" FROM {_numbers(dialect, COUNT)}) AS jobs"
            )
        )
        if tomorrow:
            await connection.execute(
                text(
                    "INSERT INTO download_jobs"
                    " (job_id, track_id, created_at, available_at, priority)"
                    f" SELECT 'later-' || number, 't', {moment}, {TOMORROW[dialect]}, 7"
                    f" FROM {_numbers(dialect, tomorrow)}"
                )
            )
        if analyze:
            await connection.execute(text("ANALYZE"))
    await engine.dispose()  # SQLite reads its statistics when it connects


# what is asked of the queue


class Asked(NamedTuple):
    """What a coroutine is asked, and the indexes that its statements must go through."""

    ask: Callable[[AsyncSession, list[Claim]], Awaitable[object]]
    indexes: Sequence[str]


def _middle() -> str:
    return encode_key(dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC), f"job-{COUNT // 2}")


KEY: Final = "the primary key's"
PENDING: Final = "ix_download_jobs_pending"
IN_PROGRESS: Final = "ix_download_jobs_in_progress"
FAILED: Final = "ix_download_jobs_failed"
FINISHED: Final = "ix_download_jobs_finished"
CREATED: Final = "the index of all jobs in the order of their creation"
UNIQUE: Final = "uq_download_jobs_track"

QUESTIONS: Final[dict[str, Asked]] = {
    "get_next_pending_download_job": Asked(
        lambda db, _: crud.get_next_pending_download_job(db), [PENDING]
    ),
    "claim_download_jobs": Asked(
        lambda db, _: crud.claim_download_jobs(db, worker_id="w", lease=LEASE), [PENDING, KEY]
    ),
    "exchange_download_jobs": Asked(
        lambda db, claims: crud.exchange_download_jobs(
            db, list(map(completed, claims)), worker_id="w", limit=1, lease=LEASE
        ),
        [PENDING, KEY],
    ),
    "exchange_download_jobs, lost": Asked(
        lambda db, _: crud.exchange_download_jobs(
            db, [released(new_claim())], worker_id="w", limit=1, lease=LEASE
        ),
        [PENDING, KEY],
    ),
    "renew_download_leases": Asked(
        lambda db, claims: crud.renew_download_leases(
            db, [*claims, new_claim(), new_claim(job_id="k")], lease=LEASE
        ),
        [KEY],
    ),
    "report_download_progress": Asked(
        lambda db, claims: crud.report_download_progress(
            db, dict.fromkeys([*claims, new_claim()], 0.5)
        ),
        [KEY],
    ),
    "complete_download_job": Asked(
        lambda db, claims: crud.complete_download_job(db, claims[0]), [KEY]
    ),
    "release_download_jobs": Asked(crud.release_download_jobs, [KEY]),
    "get_download_claims": Asked(
        lambda db, _: crud.get_download_claims(db, worker_id="w"), [IN_PROGRESS]
    ),
    "rescue_expired_download_jobs": Asked(
        lambda db, _: crud.rescue_expired_download_jobs(db), [IN_PROGRESS, KEY]
    ),
    "cancel_download_job": Asked(lambda db, _: crud.cancel_download_job(db, "job-5"), [KEY]),
    "retry_failed_download_jobs": Asked(
        lambda db, _: crud.retry_failed_download_jobs(db), [FAILED, UNIQUE]
    ),
    "create_download_jobs": Asked(
        lambda db, _: crud.create_download_jobs(db, [new_job("t25000", unique=True)]), [UNIQUE]
    ),
    "prune_download_jobs": Asked(
        lambda db, _: crud.prune_download_jobs(db, older_than=0, limit=10), [FINISHED, KEY]
    ),
    "get_download_queue_stats": Asked(
        lambda db, _: crud.get_download_queue_stats(db), [PENDING, IN_PROGRESS, FAILED, FINISHED]
    ),
    "get_time_until_next_download_job": Asked(
        lambda db, _: crud.get_time_until_next_download_job(db), [PENDING]
    ),
    "list_download_jobs, failed": Asked(
        lambda db, _: crud.list_download_jobs(db, status=DownloadJobStatus.FAILED, limit=50),
        [FAILED],
    ),
    "list_download_jobs, from the middle": Asked(
        lambda db, _: crud.list_download_jobs(db, limit=50, after=_middle()),
        [CREATED],
    ),
}
SELDOM: Final = {
    "get_download_queue_stats",
    "prune_download_jobs",
    "retry_failed_download_jobs",
}
"""What is asked once in a while, about many jobs."""

ALL_OF_THEM: Final = {"get_download_queue_stats", "prune_download_jobs"}
"""What reads all that it is asked about."""


# how the database answers


async def _sent(
    engine: AsyncEngine, sessions: Sessions, asked: Asked, claims: list[Claim]
) -> list[tuple[str, Any]]:
    """Return the statements that *asked* sends about jobs, with their parameters; undo them."""
    async with sessions() as db:
        with statements_sent(engine) as sent:
            await asked.ask(db, claims)
        await db.rollback()
    return [
        each
        for each in sent
        if "download_jobs" in each[0]
        and not each[0].startswith("DELETE FROM download_jobs WHERE f")
    ]


async def _plans(engine: AsyncEngine, statement: str, parameters: Any) -> dict[str, list[str]]:
    """Return how the database runs *statement*, for each way that it comes to plan it."""
    async with engine.connect() as connection:
        if is_sqlite(engine):
            rows = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            return {"only": [str(row[-1]) for row in rows]}
        name = f"asked_{next(_COUNTER)}"  # the driver remembers what a name stands for
        values = ", ".join(map(_literal, parameters))
        execute = f"EXECUTE {name} ({values})" if values else f"EXECUTE {name}"
        plans = {"first": await _explained(connection, statement, parameters)}
        await connection.exec_driver_sql(f"PREPARE {name} AS {statement}")
        for _ in range(7):  # after five, PostgreSQL may plan without the values
            await connection.exec_driver_sql(execute)
        plans["often"] = await _explained(connection, execute)
        await connection.exec_driver_sql("SET LOCAL plan_cache_mode = force_generic_plan")
        plans["generic"] = await _explained(connection, execute)
        await connection.exec_driver_sql(f"DEALLOCATE {name}")
        return plans


_COUNTER: Final = itertools.count()


def _literal(value: object) -> str:
    return "NULL" if value is None else f"'{value}'"


async def _explained(
    connection: AsyncConnection, statement: str, parameters: Any = ()
) -> list[str]:
    explain = f"EXPLAIN (FORMAT JSON) {statement}"
    found = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
    (plan,) = found if isinstance(found, list) else json.loads(found)
    return list(_nodes(plan["Plan"]))


def _nodes(plan: dict[str, Any]) -> Iterator[str]:
    """Yield what each node does: how, by which index, and in which table."""
    yield " ".join(str(plan.get(key, "")) for key in ("Node Type", "Index Name", "Relation Name"))
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


READS_TOO_MUCH: Final = re.compile(
    r"Seq Scan\s+download_jobs|SCAN (?:download_jobs|candidate|held|old)\w*(?! USING)\b|BLOOM|rowid"
)
SORTS: Final = re.compile(r"^Sort|TEMP B-TREE")


def _slow(plans: dict[str, list[str]], *patterns: re.Pattern[str]) -> list[str]:
    return [
        f"{name}: {node}"
        for name, nodes in plans.items()
        for node in nodes
        if any(pattern.search(node) for pattern in patterns)
    ]


def _index(engine: AsyncEngine, name: str) -> str:
    return _NAMES[engine.dialect.name].get(name, name)


_NAMES: Final = {
    "postgresql": {KEY: "pk_download_jobs", CREATED: "ix_download_jobs_created_at"},
    "sqlite": {KEY: "sqlite_autoindex_download_jobs_1", CREATED: "ix_download_jobs_created"},
}


@ANALYZE
async def test_a_few_jobs_among_many_finished_ones_are_found_by_their_indexes(
    engine: AsyncEngine, sessions: Sessions, *, analyze: bool
) -> None:
    """With and without statistics, at first and when the statement has been used often."""
    await _fill(engine, analyze=analyze)
    claims = await claim_jobs(sessions, 2)

    for name, asked in QUESTIONS.items():
        if name in SELDOM and not analyze:
            continue  # nobody waits for them, and PostgreSQL soon has its statistics
        found = set()
        for statement, parameters in await _sent(engine, sessions, asked, claims):
            plans = await _plans(engine, statement, parameters)
            assert _slow(plans, READS_TOO_MUCH) == [], (name, plans)
            every = [set(" ".join(nodes).split()) for nodes in plans.values()]
            found |= set.intersection(*every)
        missing = {_index(engine, index) for index in asked.indexes} - found
        assert missing == set(), (name, found)


@ANALYZE
async def test_a_long_backlog_is_not_sorted_to_find_what_is_next(
    engine: AsyncEngine, sessions: Sessions, *, analyze: bool
) -> None:
    """The index has the order already."""
    await _fill(engine, backlog=COUNT // 5, analyze=analyze)
    claims = await claim_jobs(sessions, 20)

    for name in (
        "get_next_pending_download_job",
        "claim_download_jobs",
        "exchange_download_jobs",
        "get_time_until_next_download_job",
        "list_download_jobs, from the middle",
    ):
        asked = QUESTIONS[name]
        for statement, parameters in await _sent(engine, sessions, asked, claims):
            plans = await _plans(engine, statement, parameters)
            assert _slow(plans, READS_TOO_MUCH, SORTS) == [], (name, plans)


class _Effort:
    """What the database does for a question: pages on PostgreSQL, thousands of steps on SQLite."""

    def __init__(self, engine: AsyncEngine, sessions: Sessions) -> None:
        self._engine, self._sessions = engine, sessions

    async def of(self, asked: Asked, claims: list[Claim]) -> int:
        """Return how much it takes; it is undone."""
        if is_sqlite(self._engine):
            return await self._steps(asked, claims)
        sent = await _sent(self._engine, self._sessions, asked, claims)
        return sum([await self._pages(*each) for each in sent])

    async def _pages(self, statement: str, parameters: Any) -> int:
        async with self._engine.connect() as connection:
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            found = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
            (plan,) = found if isinstance(found, list) else json.loads(found)
            return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])

    async def _steps(self, asked: Asked, claims: list[Claim]) -> int:
        thousands = 0

        def count() -> None:
            nonlocal thousands
            thousands += 1

        async with self._sessions() as db:
            raw = await (await db.connection()).get_raw_connection()
            driver: Any = raw.driver_connection
            await driver.set_progress_handler(count, 1_000)
            await asked.ask(db, claims)
            await driver.set_progress_handler(None, 1_000)
            await db.rollback()
        return thousands


MOST_PAGES: Final = 250
MOST_THOUSANDS_OF_STEPS: Final = 25
"""What reading one in ten of a hundred thousand rows would exceed by far."""


@ANALYZE
@pytest.mark.parametrize(("backlog", "tomorrow"), [(COUNT // 5, 0), (FEW, COUNT)])
async def test_neither_a_long_backlog_nor_many_jobs_of_tomorrow_are_read_to_find_what_is_next(
    engine: AsyncEngine, sessions: Sessions, backlog: int, tomorrow: int, *, analyze: bool
) -> None:
    """Also where those have the highest priority: what it takes is small, whatever waits."""
    await _fill(engine, backlog=backlog, tomorrow=tomorrow, analyze=analyze)
    claims = await claim_jobs(sessions, 2)
    effort = _Effort(engine, sessions)
    most = MOST_THOUSANDS_OF_STEPS if is_sqlite(engine) else MOST_PAGES

    efforts = {
        name: await effort.of(asked, claims)
        for name, asked in QUESTIONS.items()
        if name not in {*ALL_OF_THEM, *(() if analyze else SELDOM)}
    }

    assert {name: taken for name, taken in efforts.items() if taken > most} == {}
    assert len(claims) == 2
