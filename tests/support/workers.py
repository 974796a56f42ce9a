"""Workers that drain the queue, as tasks of a test and as processes.

A process is ``python -m tests.support.workers URL``; it prints the ids of the jobs that it claimed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from zotify_async_crud import crud, database
from zotify_async_crud.errors import TransactionConflict
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

PickUp: TypeAlias = Callable[[AsyncSession], Awaitable[DownloadJob | None]]

TASKS_OF_A_PROCESS: Final = 5


async def drain(sessions: async_sessionmaker[AsyncSession], pick_up: PickUp) -> list[str]:
    """Pick up jobs until there is none, and return the ids of those whose claim was committed."""
    claimed: list[str] = []
    while True:
        try:
            with database.translated_errors():
                async with sessions.begin() as db:
                    job = await pick_up(db)
                    if job:
                        await crud.update_download_job_status(
                            db, job, DownloadJobStatus.IN_PROGRESS
                        )
        except TransactionConflict:
            continue  # which is safe, as the error says
        if job is None:
            return claimed
        claimed.append(job.job_id)


async def drain_together(
    sessions: async_sessionmaker[AsyncSession],
    *,
    tasks: int,
    pick_up: PickUp = crud.get_next_pending_download_job,
) -> list[str]:
    """Drain the queue with *tasks* tasks that begin at the same time."""
    claims = await asyncio.gather(*(drain(sessions, pick_up) for _ in range(tasks)))
    return [job_id for claimed in claims for job_id in claimed]


def say(line: str) -> None:
    """Write a line for the test to read."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def main(url: str) -> None:
    """Say "ready", wait for a line, drain the queue and write the ids of the claimed jobs."""
    engine = database.create_engine(url)
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    claimed = await drain_together(
        database.create_session_factory(engine), tasks=TASKS_OF_A_PROCESS
    )
    await engine.dispose()
    say(json.dumps(claimed))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
