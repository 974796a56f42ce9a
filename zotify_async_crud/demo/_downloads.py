"""The workers: they share the queue, call the handler, and record what came of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from zotify_async_crud import crud, models
from zotify_async_crud.demo._reports import Downloads, Reporter, Stage
from zotify_async_crud.demo._transactions import Sessions, transaction
from zotify_async_crud.schemas import DownloadJobStatus

Handler: TypeAlias = Callable[[str], Awaitable[None]]
"""Downloads the track with this id, or raises ``DownloadFailed``."""

ROUNDS: Final = 20
"""How often failed jobs may be tried again; one in 20 fails, so more are not a matter of chance."""

FAILURE_RATE: Final = 0.05
SHORTEST, LONGEST = 0.002, 0.012
"""Seconds that a stand-in download takes."""


class DownloadFailed(Exception):
    """The download of one track failed; the job keeps the message, and may be tried again."""


def stand_in_handler(chance: random.Random) -> Handler:
    """Return a handler that downloads nothing, takes some milliseconds, and fails now and then."""

    async def download(_track_id: str) -> None:
        await asyncio.sleep(chance.uniform(SHORTEST, LONGEST))
        if chance.random() < FAILURE_RATE:
            raise DownloadFailed("the stand-in for a download failed, as it does now and then")

    return download


async def download_all(
    sessions: Sessions, handler: Handler, workers: int, reporter: Reporter
) -> Downloads:
    """Work off the queue, give back what failed, and so on until nothing fails any more."""
    downloads = Downloads()
    for _ in range(ROUNDS):
        with first_failure():
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(_work(sessions, handler, downloads, reporter))
        if not await _retry_failed(sessions):
            break
    return downloads


@contextmanager
def first_failure() -> Iterator[None]:
    """Let out a task group's first failure by itself; the other tasks stopped because of it."""
    try:
        yield
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


async def _work(
    sessions: Sessions, handler: Handler, downloads: Downloads, reporter: Reporter
) -> None:
    while (job := await _pick_up(sessions)) is not None:
        try:
            await handler(job.track_id)
        except DownloadFailed as failure:
            await _fail(sessions, job, str(failure))
            downloads.failed_attempts += 1
            reporter.fail(Stage.DOWNLOAD)
        else:
            await _complete(sessions, job)
            downloads.completed += 1
            reporter.advance(Stage.DOWNLOAD)


@transaction
async def _pick_up(sessions: Sessions) -> models.DownloadJob | None:
    async with sessions.begin() as db:
        job = await crud.get_next_pending_download_job(db)
        if job is not None:
            await crud.update_download_job_status(db, job, DownloadJobStatus.IN_PROGRESS)
    return job


@transaction
async def _complete(sessions: Sessions, job: models.DownloadJob) -> None:
    async with sessions.begin() as db:
        await crud.update_download_job_status(db, job, DownloadJobStatus.COMPLETED, progress=1.0)


@transaction
async def _fail(sessions: Sessions, job: models.DownloadJob, error: str) -> None:
    async with sessions.begin() as db:
        await crud.update_download_job_status(db, job, DownloadJobStatus.FAILED, error=error)


@transaction
async def _retry_failed(sessions: Sessions) -> int:
    async with sessions.begin() as db:
        return await crud.retry_failed_download_jobs(db)
