"""A process that enqueues jobs, as a web service does beside its workers.

``python -m tests.support.processes URL HOW`` reads a track from each line of its input, and answers
with the id of the job once it is committed. HOW tells whether it notifies others.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, Literal, TypeAlias

from zotify_async_crud import crud, database, events, schemas
from zotify_async_crud.enqueuer import Enqueuer

REPOSITORY: Final = Path(__file__).parents[2]

How: TypeAlias = Literal["silently", "notifying", "by an enqueuer"]
_Enqueue: TypeAlias = Callable[[schemas.DownloadJobCreate], Awaitable[str]]


class Service:
    """A process that enqueues what it is told."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def enqueue(self, track_id: str = "t") -> str:
        """Let it commit a job, and return its id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{track_id}\n".encode())
        return (await self._process.stdout.readline()).decode().strip()


@contextlib.asynccontextmanager
async def service(url: str, how: How) -> AsyncIterator[Service]:
    """Run a process that enqueues in the database at *url*, as long as the block runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.processes", url, how),
        cwd=REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Service(process)
    finally:
        await process.communicate(b"")  # the end of its input is that of the process
    assert process.returncode == 0


@contextlib.asynccontextmanager
async def _enqueuing(url: str, how: str) -> AsyncIterator[_Enqueue]:
    engine = database.create_engine(url)
    sessions = database.create_session_factory(engine)

    async def enqueue(job: schemas.DownloadJobCreate) -> str:
        async with sessions.begin() as db:
            (job_id,) = await crud.create_download_jobs(db, [job])
        return job_id

    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        if how == "by an enqueuer":
            yield (await stack.enter_async_context(Enqueuer(sessions))).enqueue
        else:
            if how == "notifying":
                await stack.enter_async_context(events.notifying(engine))
            yield enqueue


async def _main(url: str, how: str) -> None:
    async with _enqueuing(url, how) as enqueue:
        while line := await asyncio.to_thread(sys.stdin.readline):
            job_id = await enqueue(schemas.DownloadJobCreate(track_id=line.strip()))
            sys.stdout.write(f"{job_id}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:3]))
