"""A worker that is interrupted: ``python -m tests.worker.interrupted URL LEASE``.

It says "begun" once three handlers run, and leaves the rest to asyncio, as most programs do.
"""

from __future__ import annotations

import asyncio
import sys

from zotify_async_crud import database
from zotify_async_crud.worker import JobContext, WorkerPool


async def main(url: str, lease: float) -> None:
    """Work until it is interrupted; the job of the track ``interrupts`` does so itself."""
    engine = database.create_engine(url)
    begun = asyncio.Barrier(3)

    async def handle(job: JobContext) -> None:
        if await begun.wait() == 0:
            sys.stdout.write("begun\n")
            sys.stdout.flush()
        if job.track_id == "interrupts":
            raise KeyboardInterrupt
        await asyncio.sleep(3_600)

    try:
        await WorkerPool(database.create_session_factory(engine), handle, lease=lease).run()
    finally:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
