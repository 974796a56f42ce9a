"""How long a working pool waits while the tables under it are upgraded."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final, TypeAlias

from sqlalchemy import ExceptionContext, event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks.databases import POSTGRESQL, Database, Databases
from benchmarks.figures import Ratio, timed
from benchmarks.report import Report
from zotify_async_crud import database as library
from zotify_async_crud import migrations
from zotify_async_crud.worker import JobContext, WorkerPool

JOBS: Final = 1_000_000
PENDING: Final = 400_000
CONCURRENCY: Final = 50
ROUNDS: Final = 5
BEFORE: Final = 1.0
"""Seconds that a pool works before the tables are changed."""

LONGEST: Final = 2.0
"""Seconds that a statement of the pool may wait at most."""

_OLDEST: Final = "0001"
_INDEXES: Final = ("ix_download_jobs_cancelled", "ix_download_jobs_created_at")
"""What an upgrade from the oldest revision builds."""
_LOAD: Final = f"""
    INSERT INTO download_jobs (job_id, track_id, status, progress, created_at, finished_at)
    SELECT '00000000-0000-7000-8000-' || lpad(CAST(n AS text), 12, '0'), 'track' || n, status,
        0, began, CASE WHEN status <> 'pending' THEN began + INTERVAL '1 minute' END
    FROM generate_series(1, {JOBS}) AS n CROSS JOIN LATERAL (SELECT
        TIMESTAMPTZ '2026-01-01 00:00:00Z' + n * INTERVAL '1 second',
        CASE WHEN n > {JOBS - PENDING} THEN 'pending' WHEN n % 2 = 0 THEN 'cancelled'
            ELSE 'completed' END
    ) AS t (began, status)
"""
_COUNTS: Final = "SELECT status, count(*) FROM download_jobs GROUP BY status"

Change: TypeAlias = Callable[[AsyncEngine], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Round:
    """What a pool noticed of one change."""

    seconds: float
    """What the change took."""

    jobs: int
    """How many were done meanwhile."""

    usual: float
    """The seconds of the longest statement before the change."""

    longest: float
    """The seconds of the longest statement that was under way during the change."""


async def run(databases: Databases, report: Report) -> None:
    """Upgrade by the library, and build the same indexes as others do, by turns."""
    async with databases.fresh(POSTGRESQL) as database:
        await migrations.downgrade(database.engine, _OLDEST)
        definitions = await _definitions_of_indexes(database)
        await database.execute(_LOAD)
        await database.write_out()
        changes: dict[str, Change] = {
            "upgrade": migrations.upgrade,
            "CREATE INDEX": lambda engine: _execute(engine, *definitions),
        }
        found: dict[str, list[Round]] = {name: [] for name in changes}
        for _ in range(ROUNDS):
            for name, change in changes.items():
                found[name].append(await _round(database, change))
                await migrations.downgrade(database.engine, _OLDEST)
                await _execute(database.engine, f"DROP INDEX IF EXISTS {', '.join(_INDEXES)}")
    _show(report, found)


def _show(report: Report, found: dict[str, list[Round]]) -> None:
    report.table(
        f"A pool of {CONCURRENCY} works on a table of {JOBS:,} jobs; medians of {ROUNDS} rounds",
        ["change", "seconds", "jobs/s meanwhile", "longest before, ms", "longest meanwhile, ms"],
        [[name, *_medians(rounds)] for name, rounds in found.items()],
    )
    ours = [each.longest for each in found["upgrade"]]
    theirs = [each.longest for each in found["CREATE INDEX"]]
    report.line(f"longest statement, upgrade against CREATE INDEX: {Ratio.of(ours, theirs)}")
    report.require(f"longest statement, against {LONGEST} s", Ratio.of(ours, [LONGEST]), at_most=1)


def _medians(rounds: list[Round]) -> list[str]:
    return [
        f"{median(each.seconds for each in rounds):.2f}",
        f"{median(each.jobs / each.seconds for each in rounds):,.0f}",
        f"{median(each.usual for each in rounds) * 1e3:.0f}",
        f"{median(each.longest for each in rounds) * 1e3:.0f}",
    ]


async def _round(database: Database, change: Change) -> Round:
    before = await _counts(database)
    async with _working(database) as (statements, done):
        await asyncio.sleep(BEFORE)
        usual, jobs = statements.longest(), done.total()
        statements.begin()
        seconds, _ = await timed(change(database.engine))
        longest, jobs = statements.longest(), done.total() - jobs
    after = await _counts(database)
    # nothing is lost, and nothing is done twice
    assert after["completed"] - before["completed"] == done.total() == len(done)
    assert after["pending"] == before["pending"] - done.total() > 0
    return Round(seconds, jobs, usual, longest)


@contextlib.asynccontextmanager
async def _working(database: Database) -> AsyncIterator[tuple[_Statements, Counter[str]]]:
    """Have a pool work while the block runs; yield its statements, and what it has done."""
    done: Counter[str] = Counter()

    async def download(job: JobContext) -> None:
        done[job.job_id] += 1

    engine = library.create_engine(database.url)
    statements = _Statements()
    pool = WorkerPool(library.create_session_factory(engine), download, concurrency=CONCURRENCY)
    statements.listen(engine)
    running = asyncio.create_task(pool.run())
    try:
        yield statements, done
    finally:
        await pool.stop()
        await running
        await engine.dispose()


class _Statements:
    """When each statement of an engine began and ended."""

    def __init__(self) -> None:
        self._running: dict[int, float] = {}
        self._longest = 0.0

    def begin(self) -> None:
        """Forget the statements that have ended."""
        self._longest = 0.0

    def longest(self) -> float:
        """Return the seconds of the longest statement, one that still runs included."""
        now = time.perf_counter()
        return max([self._longest, *(now - began for began in self._running.values())])

    def listen(self, engine: AsyncEngine) -> None:
        """Note those of *engine*."""

        def began(connection: Any, *_: Any) -> None:
            self._running[id(connection)] = time.perf_counter()

        def ended(connection: Any, *_: Any) -> None:
            took = time.perf_counter() - self._running.pop(id(connection))
            self._longest = max(self._longest, took)

        def failed(context: ExceptionContext) -> None:
            if id(context.connection) in self._running:
                ended(context.connection)

        event.listen(engine.sync_engine, "before_cursor_execute", began)
        event.listen(engine.sync_engine, "after_cursor_execute", ended)
        event.listen(engine.sync_engine, "handle_error", failed)


async def _counts(database: Database) -> dict[str, int]:
    async with database.engine.connect() as connection:
        return dict((await connection.execute(text(_COUNTS))).tuples().all())


async def _execute(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def _definitions_of_indexes(database: Database) -> list[str]:
    """Return the statements that build the newest indexes, as the server itself has them."""
    await migrations.upgrade(database.engine)
    async with database.engine.connect() as connection:
        statement = text("SELECT pg_get_indexdef(CAST(:name AS regclass))")
        definitions = [
            str((await connection.execute(statement, {"name": name})).scalar_one())
            for name in _INDEXES
        ]
    await migrations.downgrade(database.engine, _OLDEST)
    return definitions
