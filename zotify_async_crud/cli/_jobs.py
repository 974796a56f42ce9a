"""The commands about download jobs."""

from __future__ import annotations

import datetime as dt
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Final

from cyclopts import App, Parameter
from rich.console import Console

from zotify_async_crud import crud, models, schemas
from zotify_async_crud._transactions import Sessions
from zotify_async_crud.cli._database import checked, transaction
from zotify_async_crud.cli._options import HERE, AsJson, Target, Yes
from zotify_async_crud.cli._output import confirm, say, show_facts, show_json, show_table
from zotify_async_crud.errors import DownloadJobNotFound, InvalidValue
from zotify_async_crud.schemas import DownloadJobStatus

app = App(name="jobs", help="Download jobs: list, look at, retry, cancel and prune them.")

_FINISHED: Final = (DownloadJobStatus.COMPLETED, DownloadJobStatus.CANCELLED)
_PRUNED_AT_ONCE: Final = 1_000
_AGE: Final = re.compile(r"(\d{1,9})([smhdw])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}

_TRACKS: Final = Parameter(help="Spotify ids of tracks.", negative=())
_STDIN: Final = Parameter(help="Read ids of tracks from stdin, too, one on each line.", negative=())
_PRIORITY: Final = Parameter(help="Higher goes first.")
_MAX_ATTEMPTS: Final = Parameter(help="How often a job is tried at most.")
_UNIQUE: Final = Parameter(
    help="At most one unique job for a track at a time: where there is one, its id is printed.",
    negative=(),
)
_STATUS: Final = Parameter(help="Only jobs with this status.")
_LIMIT: Final = Parameter(help="How many jobs at most.")
_AFTER: Final = Parameter(help="Go on after this key, which the page before told.")
_OLDER_THAN: Final = Parameter(help="How long ago they were finished: 90s, 30m, 12h, 7d, 4w.")


@Parameter(name="*")
@dataclass(frozen=True)
class Wishes:
    """What all jobs of a command have alike."""

    priority: Annotated[int, _PRIORITY] = 0
    max_attempts: Annotated[int, _MAX_ATTEMPTS] = schemas.DEFAULT_MAX_ATTEMPTS
    unique: Annotated[bool, _UNIQUE] = False


_NONE: Final = Wishes()


async def enqueue(
    track_ids: Annotated[list[str] | None, _TRACKS] = None,
    /,
    *,
    stdin: Annotated[bool, _STDIN] = False,
    wishes: Wishes = _NONE,
    target: Target = HERE,
    json: AsJson = False,
) -> None:
    """Put downloads into the queue, and print the ids of their jobs, one on each line."""
    alike, piped = asdict(wishes), (line.strip() for line in sys.stdin) if stdin else ()
    ids = [*(track_ids or ()), *filter(None, piped)]
    jobs = [schemas.DownloadJobCreate(track_id=track_id, **alike) for track_id in ids]
    async with transaction(target) as db:
        job_ids = await crud.create_download_jobs(db, jobs)
    if json:
        show_json(job_ids)
        return
    for job_id in job_ids:
        say(job_id)


@app.command(name="list")
async def list_jobs(
    *,
    target: Target = HERE,
    status: Annotated[DownloadJobStatus | None, _STATUS] = None,
    limit: Annotated[int, _LIMIT] = 50,
    after: Annotated[str | None, _AFTER] = None,
    json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    async with transaction(target, read_only=True) as db:
        page = await crud.list_download_jobs(db, status=status, limit=limit, after=after)
    jobs = [_as_schema(job) for job in page.items]
    if json:
        show_json({"items": jobs, "after": page.after})
        return
    rows = (
        (job.job_id, job.track_id, job.status, f"{job.progress:.0%}", str(job.attempt), _at(job))
        for job in jobs
    )
    show_table(("Job", "Track", "Status", "Progress", "Attempt", "Created"), rows)
    if page.after is not None:
        say(f"There are more: --after {page.after}")


@app.command(name="show")
async def show_job(job_id: str, /, *, target: Target = HERE, json: AsJson = False) -> None:
    """Show all that is known of a job."""
    async with transaction(target, read_only=True) as db:
        job = await crud.get_download_job(db, job_id)
    if job is None:
        raise DownloadJobNotFound(job_id)
    found = _as_schema(job)
    if json:
        show_json(found)
        return
    facts = found.model_dump(mode="json")
    show_facts(((name.replace("_", " "), str(facts[name])) for name in facts), Console())


@app.command(name="retry")
async def retry_jobs(*, target: Target = HERE, json: AsJson = False) -> None:
    """Put all failed jobs back into the queue."""
    async with transaction(target) as db:
        retried = await crud.retry_failed_download_jobs(db)
    if json:
        show_json({"retried": retried})
    else:
        say(f"Failed jobs that are pending again: {retried}")


@app.command(name="cancel")
async def cancel_jobs(
    job_ids: list[str], /, *, target: Target = HERE, json: AsJson = False
) -> None:
    """Cancel jobs: a pending one at once; a running one when its worker next renews its lease."""
    async with transaction(target) as db:
        jobs = [_as_schema(await crud.cancel_download_job(db, job_id)) for job_id in job_ids]
    if json:
        show_json(jobs)
        return
    for job in jobs:
        running = job.status is DownloadJobStatus.IN_PROGRESS
        asked = ", and its worker is asked to stop" if running else ""
        say(f"{job.job_id} is {job.status.replace('_', ' ')}{asked}")


@app.command(name="prune")
async def prune_jobs(
    *,
    older_than: Annotated[str, _OLDER_THAN],
    target: Target = HERE,
    status: Annotated[list[DownloadJobStatus] | None, _STATUS] = None,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Delete completed and cancelled jobs that were finished long ago, in short transactions."""
    age, statuses = _age(older_than), tuple(status or _FINISHED)
    async with checked(target) as sessions:
        confirm(f"Delete jobs that are {' or '.join(statuses)} for {older_than}?", yes=yes)
        pruned = await _prune(sessions, age, statuses)
    if json:
        show_json({"pruned": pruned})
    else:
        say(f"Jobs deleted: {pruned}")


async def _prune(
    sessions: Sessions, age: dt.timedelta, statuses: Sequence[DownloadJobStatus]
) -> int:
    pruned, last = 0, _PRUNED_AT_ONCE
    while last == _PRUNED_AT_ONCE:
        async with sessions.begin() as db:
            last = await crud.prune_download_jobs(
                db, older_than=age, limit=_PRUNED_AT_ONCE, statuses=statuses
            )
        pruned += last
    return pruned


def _age(text: str) -> dt.timedelta:
    found = _AGE.fullmatch(text)
    if found is None:
        raise InvalidValue("older-than", "Input should be a number and one of s, m, h, d and w")
    return dt.timedelta(seconds=int(found[1]) * _UNITS[found[2]])


def _as_schema(job: models.DownloadJob) -> schemas.DownloadJob:
    return schemas.DownloadJob.model_validate(job)


def _at(job: schemas.DownloadJob) -> str:
    return f"{job.created_at:%Y-%m-%d %H:%M:%S}"
