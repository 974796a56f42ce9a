"""The downloads: a stand-in for each, pools that work them off, and when they are done."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from zotify_async_crud._transactions import Sessions
from zotify_async_crud.demo import _steps
from zotify_async_crud.demo._database import Access
from zotify_async_crud.demo._reports import Jobs, Reporter, Stage
from zotify_async_crud.worker import ExponentialBackoff, Handler, JobContext, WorkerPool

FAILURE_RATE: Final = 0.05
SHORTEST, LONGEST = 0.002, 0.012
"""Seconds that a stand-in download takes."""

LEASE: Final = 2.0
"""Seconds; a killed demo's jobs come back within two leases."""

BACKOFF: Final = ExponentialBackoff(first=0.05, longest=0.5)

ROUNDS: Final = 20
"""How often jobs that have failed for good may be tried again; more are not a matter of chance."""

_BETWEEN_LOOKS: Final = 0.1
"""Seconds between two looks at how far the downloads are."""


class DownloadFailed(Exception):
    """The download of one track failed; the job keeps the message, and is tried again."""


class Team(Protocol):
    """Workers that run until they are stopped: a ``WorkerPool``, or several elsewhere."""

    async def run(self) -> object:
        """Work until ``stop`` is called, or as long as there is anybody who works."""

    async def stop(self) -> None:
        """End in good order; return when it has ended."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What has to be known to run one pool; it goes to another process as JSON."""

    worker_id: str
    database_url: str = field(repr=False)
    concurrency: int
    seed: int

    def pool(self, sessions: Sessions) -> WorkerPool:
        """Return the pool, which does not run yet."""
        chance = random.Random(self.seed)
        return WorkerPool(
            sessions,
            stand_in_handler(chance),
            concurrency=self.concurrency,
            worker_id=self.worker_id,
            lease=LEASE,
            backoff=BACKOFF,
        )


def stand_in_handler(chance: random.Random) -> Handler:
    """Return a handler that downloads nothing, takes some milliseconds, and fails now and then."""

    async def download(job: JobContext) -> None:
        seconds = chance.uniform(SHORTEST, LONGEST)
        await asyncio.sleep(seconds / 2)
        await job.report(0.5)
        await asyncio.sleep(seconds / 2)
        if chance.random() < FAILURE_RATE:
            raise DownloadFailed("the stand-in for a download failed, as it does now and then")

    return download


async def work_off(
    access: Access, working: asyncio.Future[Any], before: Jobs, reporter: Reporter
) -> None:
    """Return when no job is left, or when *working* is done; report meanwhile.

    Jobs that other processes hold are waited for: either they get completed, or their leases end
    and they come back to the queue. What has failed for good is given back, for some rounds.
    """
    rounds = 0
    while True:
        now = await _steps.count_jobs(access.watching)
        done = now.completed - before.completed
        failed = now.failed_attempts - before.failed_attempts
        reporter.show(Stage.DOWNLOAD, done, done + now.left, failed)
        if working.done():
            return
        if not now.active:
            rounds += 1
            if rounds >= ROUNDS or not await _steps.retry_failed(access.sessions):
                return
        await asyncio.wait({working}, timeout=_BETWEEN_LOOKS)
