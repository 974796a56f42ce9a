"""A worker process to kill, to pause and to cut off: ``python -m tests.chaos.worker URL NAME``.

Its handler writes what it does into the table ``events``, the end of a job in the same transaction
that completes it. With ``UNFENCED`` in the environment, a claim stands for its job alone, whatever
the attempt.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from zotify_async_crud import crud, database
from zotify_async_crud._statements import claims as sql
from zotify_async_crud._statements._jobs import JOBS
from zotify_async_crud.crud import claims
from zotify_async_crud.errors import DatabaseError
from zotify_async_crud.worker import JobContext, WorkerPool

LEASE: Final = 1.0
"""Seconds; a worker that is gone for longer loses its jobs."""

POISON: Final = "poison"
"""The track whose download kills its process."""

STARVING: Final = "starving"
"""The track whose first download blocks the event loop until the lease is long over."""

_EVENT: Final = text("INSERT INTO events (job_id, attempt, kind) VALUES (:job_id, :attempt, :kind)")


class Handler:
    """Downloads nothing, and writes down that it does."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = sessions

    async def __call__(self, job: JobContext) -> None:
        """Do a job."""
        await self._write(job, "begun")
        if job.track_id == POISON:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.track_id == STARVING and job.attempt == 1:
            time.sleep(3 * LEASE)  # noqa: ASYNC251 - that is the fault
        await asyncio.sleep(random.uniform(0.005, 0.03))
        await self._write(job, "done")

    async def _write(self, job: JobContext, kind: str) -> None:
        """Write an event, again where that is safe; a lost reply is left to the next attempt."""
        while True:
            try:
                with database.translated_errors():
                    async with self._sessions.begin() as db:
                        if kind == "done":
                            await crud.complete_download_job(db, job.claim)
                        facts = {"job_id": job.job_id, "attempt": job.attempt, "kind": kind}
                        await db.execute(_EVENT, facts)
            except DatabaseError as error:
                if not error.retry_safe:
                    raise
                await asyncio.sleep(0.05)
            else:
                return


def _unfenced(database: Any, rows: Any, jobs: Any = JOBS) -> Any:
    return jobs.c.job_id == rows.c.job_id


async def main(url: str, name: str) -> None:
    """Work until SIGTERM."""
    engine = database.create_engine(url)
    sessions = database.create_session_factory(engine)
    pool = WorkerPool(
        sessions,
        Handler(sessions),
        concurrency=4,
        worker_id=name,
        lease=LEASE,
        poll_interval=0.1,
        backoff=lambda _: 0.05,
    )
    running = asyncio.create_task(pool.run())
    stopping: set[asyncio.Task[None]] = set()
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, lambda: stopping.add(asyncio.create_task(pool.stop()))
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await running
    await asyncio.gather(*stopping)
    await engine.dispose()


if __name__ == "__main__":
    logging.basicConfig(level="WARNING")
    if "UNFENCED" in os.environ:
        sql._fence = _unfenced  # noqa: SLF001
        claims._token = lambda claim: (claim.job_id, 0)  # noqa: SLF001
    asyncio.run(main(sys.argv[1], sys.argv[2]))
