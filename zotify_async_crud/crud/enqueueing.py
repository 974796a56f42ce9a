"""Downloads put into the queue."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from sqlalchemy import Result
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from zotify_async_crud import _validation as check
from zotify_async_crud import events, schemas
from zotify_async_crud._statements import download_jobs as sql
from zotify_async_crud._statements._given import Query
from zotify_async_crud.crud._session import database_of, execute
from zotify_async_crud.errors import ConstraintViolated, DownloadJobExists, InvalidValue
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import OnDuplicate


async def create_download_job(
    db: AsyncSession,
    job: schemas.DownloadJobCreate,
    *,
    on_duplicate: Literal["existing", "error"] = "existing",
) -> DownloadJob:
    """Enqueue a download: a new ``pending`` job, which workers see once the caller commits.

    *on_duplicate* decides about a unique job whose track has one that is pending or in progress:
    that one is returned, as it is, or it is an error.

    Raises:
        DownloadJobExists: By *on_duplicate*.
    """
    database = database_of(db)
    new = check.job(job)
    policy = check.validated("on_duplicate", check.ON_DUPLICATE, on_duplicate)
    if policy is OnDuplicate.SKIP:
        raise InvalidValue("on_duplicate", "Input should be 'existing' or 'error' for a single job")
    if new.unique and policy is OnDuplicate.EXISTING:
        (job_id,) = await create_download_jobs(db, [new])
        created: DownloadJob = (await execute(db, sql.get_download_job(job_id))).scalar_one()
        return created
    query = partial(sql.create_download_job, database, new)
    with naming_duplicates() if new.unique else contextlib.nullcontext():
        enqueued: DownloadJob = (await _enqueue(db, query)).scalar_one()
    return enqueued


async def create_download_jobs(
    db: AsyncSession,
    jobs: Sequence[schemas.DownloadJobCreate | str],
    *,
    on_duplicate: OnDuplicate | Literal["existing", "skip", "error"] = OnDuplicate.EXISTING,
) -> list[str]:
    """Enqueue downloads in one statement, however many; return their job ids, in the order given.

    A track's id stands for a job that has only defaults; 10,000 of nothing but ids take half the
    time. They are created, and are due, in the order given. *on_duplicate* decides about unique
    jobs whose track has one that is pending or in progress already, or earlier in *jobs*: the id of
    that one is returned instead (``existing``), it is left out (``skip``), or it is an error.
    Whoever asks for one track at the same time, there is one job.

    Raises:
        DownloadJobExists: By *on_duplicate*; nothing was written.
    """
    database_of(db)
    policy = check.validated("on_duplicate", check.ON_DUPLICATE, on_duplicate)
    track_ids = check.only_track_ids(jobs)
    if track_ids is not None:  # an empty list, too
        return await _insert_defaults(db, track_ids)
    new = {str(uuid7()): job for job in check.jobs(jobs)}
    if not any(job.unique for job in new.values()):
        await _insert(db, new)
        return list(new)
    first = _first_by_track(new)
    if policy is OnDuplicate.ERROR and len(first) < len(new):
        raise DownloadJobExists
    if policy is OnDuplicate.ERROR:
        with naming_duplicates():
            await _insert(db, first)
        return list(new)
    inserted = await _insert_missing(db, first)
    if policy is OnDuplicate.SKIP:
        return [job_id for job_id in new if job_id in inserted]
    return await _existing(db, new, inserted)


@contextlib.contextmanager
def naming_duplicates() -> Iterator[None]:
    """Say what the only constraint means that values which were checked can violate."""
    try:
        yield
    except ConstraintViolated as error:
        raise DownloadJobExists from error


def _first_by_track(
    new: Mapping[str, schemas.DownloadJobCreate],
) -> dict[str, schemas.DownloadJobCreate]:
    """Leave out the unique jobs whose track has one before."""
    tracks: set[str] = set()
    first = {}
    for job_id, job in new.items():
        if not job.unique or job.track_id not in tracks:
            first[job_id] = job
        if job.unique:
            tracks.add(job.track_id)
    return first


async def _enqueue(db: AsyncSession, query: Callable[..., Query]) -> Result[Any]:
    """Execute the *query* for jobs, and see to it that those who wait for some are told."""
    announced = events.announces(db)
    result = await execute(db, *query(announced=announced))
    events.jobs_became_due(db, announced=announced)
    return result


async def _insert_defaults(db: AsyncSession, track_ids: Sequence[str]) -> list[str]:
    job_ids = [str(uuid7()) for _ in track_ids]
    if job_ids:
        query = partial(sql.create_default_download_jobs, database_of(db), job_ids, track_ids)
        await _enqueue(db, query)
    return job_ids


async def _insert(db: AsyncSession, new: Mapping[str, schemas.DownloadJobCreate]) -> None:
    query = partial(sql.create_download_jobs, database_of(db), new, skip_duplicates=False)
    await _enqueue(db, query)


async def _insert_missing(
    db: AsyncSession, new: Mapping[str, schemas.DownloadJobCreate]
) -> set[str]:
    query = partial(sql.create_download_jobs, database_of(db), new, skip_duplicates=True)
    return set((await _enqueue(db, query)).scalars())


async def _existing(
    db: AsyncSession, new: Mapping[str, schemas.DownloadJobCreate], inserted: set[str]
) -> list[str]:
    """Return for each new job its id, or that of the unique job which was there before."""
    found: dict[str, str] = {}
    while True:
        missing = {
            job_id: job
            for job_id, job in new.items()
            if job_id not in inserted and job.track_id not in found
        }
        if not missing:
            break
        tracks = sorted({job.track_id for job in missing.values()})
        rows = await execute(db, *sql.active_unique_jobs(database_of(db), tracks))
        found |= {row.track_id: row.job_id for row in rows}
        # what finished in between stands in nobody's way any more
        gone = {i: job for i, job in _first_by_track(missing).items() if job.track_id not in found}
        inserted |= await _insert_missing(db, gone) if gone else set()
    return [job_id if job_id in inserted else found[job.track_id] for job_id, job in new.items()]
