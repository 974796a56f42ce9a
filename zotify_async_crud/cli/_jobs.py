"""The commands about download jobs."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from cyclopts import App, Parameter, Token
from cyclopts.validators import Number

from zotify_async_crud import _validation, crud, fields, schemas
from zotify_async_crud._transactions import Sessions, transaction
from zotify_async_crud.cli._database import checked, reading, writing
from zotify_async_crud.cli._input import WrongUsage, confirm, lines_of_stdin
from zotify_async_crud.cli._options import HERE, AsJson, Target, Yes, whole
from zotify_async_crud.cli._output import complain, say, show_json, show_record, show_table
from zotify_async_crud.crud.download_jobs import PRUNED
from zotify_async_crud.errors import DownloadJobNotFound
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

app = App(name="jobs", help="Download jobs: list, look at, retry, cancel and prune them.")

_PRUNED_AT_ONCE: Final = 1_000
_AGE: Final = re.compile(r"([0-9]{1,8})([smhdw])")
_HEADER: Final = ("JOB", "TRACK", "STATUS", "PROGRESS", "ATTEMPT", "CREATED")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def _duration(_: object, tokens: Sequence[Token]) -> dt.timedelta:
    """Read what cyclopts itself may read in part, or not at all."""
    found = _AGE.fullmatch(tokens[0].value)
    if found is None:
        raise ValueError
    age = dt.timedelta(seconds=int(found[1]) * _UNITS[found[2]])
    if age > fields.DURATION_MAX:
        raise ValueError
    return age


_TRACKS: Final = Parameter(help="Spotify ids of tracks.", negative=())
_STDIN: Final = Parameter(help="Read ids from standard input, too, one on each line.", negative=())
_PRIORITY: Final = Parameter(
    help="Higher goes first.",
    converter=whole,
    validator=Number(gte=fields.PRIORITY_MIN, lte=fields.PRIORITY_MAX),
)
_MAX_ATTEMPTS: Final = Parameter(
    help="How often a job is tried at most.",
    converter=whole,
    validator=Number(gte=1, lte=fields.ATTEMPTS_MAX),
)
_UNIQUE: Final = Parameter(
    help="At most one unique job for a track at a time: where there is one, its id is printed.",
    negative=(),
)
_STATUS: Final = Parameter(help="Only jobs with this status.", negative=())
_LIMIT: Final = Parameter(
    help="How many jobs at most.",
    converter=whole,
    validator=Number(gte=1, lte=_validation.PAGE_MAX_LENGTH),
)
_AFTER: Final = Parameter(help="Go on after this key, which the page before told.")
_OLDER_THAN: Final = Parameter(
    help="How long ago they were finished at least: 90s, 30m, 12h, 7d, 4w.", converter=_duration
)


@Parameter(name="*")
@dataclass(frozen=True)
class Wishes:
    """What all jobs of a command have alike."""

    priority: Annotated[int, _PRIORITY] = 0
    max_attempts: Annotated[int, _MAX_ATTEMPTS] = fields.DEFAULT_MAX_ATTEMPTS
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
    """Put downloads into the queue, all or none, and print the ids of their jobs, one a line."""
    if not (track_ids or stdin):
        raise WrongUsage("Give the ids of tracks, or --stdin")
    found = [*(track_ids or ()), *(await lines_of_stdin() if stdin else ())]
    jobs = [{"track_id": track_id, **asdict(wishes)} for track_id in found]
    new = _validation.validated("jobs", _validation.JOBS, jobs)
    async with writing(target) as db:
        job_ids = await crud.create_download_jobs(db, new)
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
    async with reading(target) as db:
        page = await crud.list_download_jobs(db, status=status, limit=limit, after=after)
    if json:
        show_json({"items": [_facts(job) for job in page.items], "after": page.after})
        return
    show_table(_HEADER, map(_row, page.items))
    if page.after is not None:
        complain(f"there are more: --after {page.after}")


def _row(job: DownloadJob) -> tuple[str, ...]:
    progress, attempt = f"{job.progress:.0%}", f"{job.attempt}/{job.max_attempts}"
    created = f"{job.created_at:%Y-%m-%d %H:%M:%S}"
    return job.job_id, job.track_id, job.status, progress, attempt, created


@app.command(name="show")
async def show_job(job_id: str, /, *, target: Target = HERE, json: AsJson = False) -> None:
    """Show all that is known of a job."""
    async with reading(target) as db:
        job = await crud.get_download_job(db, job_id)
    if job is None:
        raise DownloadJobNotFound(job_id)
    (show_json if json else show_record)(_facts(job))


@app.command(name="retry")
async def retry_jobs(*, target: Target = HERE, json: AsJson = False) -> None:
    """Put all failed jobs back into the queue."""
    async with writing(target) as db:
        retried = await crud.retry_failed_download_jobs(db)
    if json:
        show_json({"retried": retried})
    else:
        say(f"Failed jobs that are pending again: {retried}")


@app.command(name="cancel")
async def cancel_jobs(
    job_ids: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    target: Target = HERE,
    json: AsJson = False,
) -> None:
    """Cancel jobs, all or none: a pending one at once; of a running one, its worker is told."""
    async with writing(target) as db:
        # in one order, so that two who cancel the same jobs cannot block each other
        jobs = [await crud.cancel_download_job(db, job_id) for job_id in sorted(set(job_ids))]
    if json:
        show_json([_facts(job) for job in jobs])
        return
    for job in jobs:
        runs = job.status == DownloadJobStatus.IN_PROGRESS
        told = ", and its worker will be told" if runs else ""
        say(f"{job.job_id} is {_in_words(job.status)}{told}")


@app.command(name="prune")
async def prune_jobs(
    *,
    older_than: Annotated[dt.timedelta, _OLDER_THAN],
    target: Target = HERE,
    status: Annotated[list[DownloadJobStatus] | None, _STATUS] = None,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Delete jobs that were finished long ago, the completed and cancelled ones by default.

    It goes on in short transactions until none is left.
    """
    statuses = status or sorted(PRUNED)
    before, what = dt.datetime.now(dt.UTC) - older_than, " or ".join(map(_in_words, statuses))
    await confirm(f"Delete jobs that were {what} before {before:%Y-%m-%d %H:%M} UTC?", yes=yes)
    pruned, last = 0, _PRUNED_AT_ONCE
    async with checked(target) as sessions:
        while last == _PRUNED_AT_ONCE:
            last = await _prune(sessions, older_than, statuses)
            pruned += last
    if json:
        show_json({"pruned": pruned})
    else:
        say(f"Jobs deleted: {pruned}")


@transaction
async def _prune(
    sessions: Sessions, age: dt.timedelta, statuses: Sequence[DownloadJobStatus]
) -> int:
    async with sessions.begin() as db:
        return await crud.prune_download_jobs(
            db, older_than=age, limit=_PRUNED_AT_ONCE, statuses=statuses
        )


def _in_words(status: str) -> str:
    return status.replace("_", " ")


def _facts(job: DownloadJob) -> dict[str, Any]:
    return schemas.DownloadJob.model_validate(job).model_dump()
