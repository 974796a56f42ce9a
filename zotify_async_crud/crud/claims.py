"""Claims: a worker's leases on jobs of the queue. Every write of a claim is fenced.

A claim is fenced by the job's ``attempt``: a worker that was paused, and whose job was given to
another meanwhile, can write nothing any more.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import _validation as check
from zotify_async_crud import events
from zotify_async_crud._dialects import Database
from zotify_async_crud._statements import claims as sql
from zotify_async_crud._statements._given import Query
from zotify_async_crud.crud._session import database_of, execute
from zotify_async_crud.errors import LeaseLost
from zotify_async_crud.schemas import (
    Claim,
    DownloadJobStatus,
    Exchange,
    Renewal,
    Rescue,
    Settlement,
)

_RESCUED_AT_ONCE: Final = 1_000
_RELEASED: Final = DownloadJobStatus.PENDING


async def claim_download_jobs(
    db: AsyncSession, *, worker_id: str, limit: int = 1, lease: dt.timedelta | float
) -> list[Claim]:
    """Claim up to *limit* (1 to 1,000) due jobs: the highest priority, then the oldest, first.

    Each becomes ``in_progress``, and is this worker's for *lease* (a timedelta, or seconds) from
    now on by the database's clock, or for as long as ``renew_download_leases`` prolongs it. Commit
    before you begin to work. An empty list does not mean an empty queue: jobs that are held by
    another transaction at this moment are passed over, and a paused queue gives out none.
    """
    database = database_of(db)
    query = sql.claim_download_jobs(
        database,
        check.validated("worker_id", check.WORKER_ID, worker_id),
        check.validated("limit", check.LIMIT, limit),
        check.validated("lease", check.LEASE, lease),
    )
    return _claims((await execute(db, *query)).all())


async def exchange_download_jobs(
    db: AsyncSession,
    settlements: Sequence[Settlement],
    *,
    worker_id: str,
    limit: int,
    lease: dt.timedelta | float,
) -> Exchange:
    """Settle jobs, and claim up to *limit* (0 to 1,000) others as ``claim_download_jobs`` does.

    On PostgreSQL it is one statement, which a worker that does many short jobs can send over a
    connection that commits each statement (``isolation_level="AUTOCOMMIT"``). A job that its claim
    has finished already may be sent again, as after a lost reply, and is not counted as lost.
    """
    database = database_of(db)
    settled = check.settlements(settlements)
    worker = check.validated("worker_id", check.WORKER_ID, worker_id)
    size = check.validated("limit", check.LIMIT_OR_NONE, limit)
    term = check.validated("lease", check.LEASE, lease)
    if settled and database.writes_together:
        query = sql.exchange_download_jobs(database, settled, worker, size, term)
        rows = (await execute(db, *query)).all()
        claims = _claims([row for row in rows if row[_LEASE] is not None])
        unsettled = {_token(row) for row in rows if row[_LEASE] is None}
        missing = [s.claim for s in settled if _token(s.claim) in unsettled] if unsettled else []
    else:
        # in the order that gives what one statement would: nothing that is given back just now
        query = sql.claim_download_jobs(database, worker, size, term)
        claims = _claims((await execute(db, *query)).all()) if size else []
        missing = await _unsettled(db, settled) if settled else []
    if any(s.outcome == _RELEASED or s.retry_in is not None for s in settled):
        events.jobs_became_due(db)
    return Exchange(claims, await _without(db, missing, sql.finished_by))


async def get_download_claims(db: AsyncSession, *, worker_id: str) -> list[Claim]:
    """Return what this worker has claimed and not settled, also where the lease is over by now.

    After a lost connection it tells what a claim brought whose reply never came.
    """
    database_of(db)
    worker = check.validated("worker_id", check.WORKER_ID, worker_id)
    return _claims((await execute(db, sql.get_download_claims(worker))).all())


async def renew_download_leases(
    db: AsyncSession, claims: Sequence[Claim], *, lease: dt.timedelta | float
) -> Renewal:
    """Prolong the leases of *claims* to *lease* from now on, in one statement.

    What it returns tells which claims hold, which are lost, and which jobs somebody wants to be
    cancelled. A job that the claim itself has finished is in none of the lists, and neither is one
    that another transaction is just writing: it is not waited for.
    """
    database = database_of(db)
    held = check.claims(claims)
    term = check.validated("lease", check.LEASE, lease)
    if not held:
        return Renewal([], [], [])
    rows = (await execute(db, *sql.renew_download_leases(database, held, term))).all()
    found = {_token(row): row for row in rows}
    renewed = [
        claim._replace(lease_expires_at=found[_token(claim)].lease_expires_at)
        for claim in held
        if _token(claim) in found
    ]
    missing = [claim for claim in held if _token(claim) not in found]
    not_held = await _without(db, missing, sql.holding)
    return Renewal(
        renewed=renewed,
        lost=await _without(db, not_held, sql.finished_by),
        cancel_requested=[claim for claim in renewed if found[_token(claim)].cancel_requested],
    )


async def report_download_progress(
    db: AsyncSession, progress: Mapping[Claim, float]
) -> list[Claim]:
    """Write how far jobs are, from 0.0 to 1.0, in one statement; return the claims that are lost.

    A job that another transaction is just writing is passed over: its next report will do.
    """
    database = database_of(db)
    reports = check.progress_of_claims(progress)
    if not reports:
        return []
    rows = await execute(db, *sql.report_download_progress(database, reports))
    written = set(map(_token, rows))
    missing = [claim for claim in reports if _token(claim) not in written]
    return await _without(db, missing, sql.holding)


async def complete_download_job(db: AsyncSession, claim: Claim) -> None:
    """Mark a claimed job ``completed``.

    In one transaction with the caller's own rows, the result is recorded exactly once.

    Raises:
        LeaseLost: Another worker may have the job; roll back, and discard the download.
    """
    await _settle(db, Settlement(check.claim(claim), DownloadJobStatus.COMPLETED))


async def fail_download_job(
    db: AsyncSession, claim: Claim, error: str, *, retry_in: dt.timedelta | float | None = None
) -> DownloadJobStatus:
    """Record that an attempt at a claimed job failed, and return what the job is now.

    With *retry_in* (a timedelta, or seconds) it is ``pending`` again, and due after that time, as
    long as it has attempts left. Otherwise it is ``failed``; if somebody asked for it,
    ``cancelled``.

    Raises:
        LeaseLost: Another worker may have the job; there is nothing to record.
    """
    delay = check.validated("retry_in", check.OPTIONAL_DURATION, retry_in)
    message = check.validated("error", check.ERROR_TEXT, error)
    failed = DownloadJobStatus.FAILED
    return await _settle(db, Settlement(check.claim(claim), failed, message, delay))


async def release_download_jobs(db: AsyncSession, claims: Sequence[Claim]) -> list[Claim]:
    """Give claimed jobs back, due at once, as a worker does that shuts down; return those lost.

    The attempt does not count: the job may have one more. Its number is not used again.
    """
    database_of(db)
    released = [Settlement(claim, _RELEASED) for claim in check.claims(claims)]
    if not released:
        return []
    events.jobs_became_due(db)
    return await _unsettled(db, released)


async def rescue_expired_download_jobs(db: AsyncSession) -> Rescue:
    """Take the jobs from workers whose leases are over, up to 1,000 at once.

    Such a job is due again at once. The attempt is spent: a job that has no other left, perhaps
    because it kills its worker each time, ends ``failed`` with an error that says so. Any number
    of processes may call this at any time, and none waits for another.
    """
    database = database_of(db)
    statement = sql.rescue_expired_download_jobs(database, _RESCUED_AT_ONCE)
    became = Counter((await execute(db, statement)).scalars())
    if became[DownloadJobStatus.PENDING]:
        events.jobs_became_due(db)
    return Rescue(
        retried=became[DownloadJobStatus.PENDING],
        failed=became[DownloadJobStatus.FAILED],
        cancelled=became[DownloadJobStatus.CANCELLED],
    )


async def _settle(db: AsyncSession, settlement: Settlement) -> DownloadJobStatus:
    database = database_of(db)
    query = sql.settle_download_jobs(database, [settlement])
    row = (await execute(db, *query)).one_or_none()
    if row is None:
        raise LeaseLost(settlement.claim.job_id, settlement.claim.attempt)
    became: DownloadJobStatus = row.status
    if became is DownloadJobStatus.PENDING:
        events.jobs_became_due(db)
    return became


async def _unsettled(db: AsyncSession, settlements: Sequence[Settlement]) -> list[Claim]:
    rows = await execute(db, *sql.settle_download_jobs(database_of(db), settlements))
    settled = set(map(_token, rows))
    return [s.claim for s in settlements if _token(s.claim) not in settled]


async def _without(
    db: AsyncSession,
    claims: list[Claim],
    query: Callable[[Database, Sequence[Claim]], Query],
) -> list[Claim]:
    """Return *claims* without those that *query* finds."""
    if not claims:
        return []
    found = set(map(_token, await execute(db, *query(database_of(db), claims))))
    return [claim for claim in claims if _token(claim) not in found]


def _token(claim: Claim | Row[Any]) -> tuple[str, int]:
    return claim.job_id, claim.attempt


def _claims(rows: Sequence[Row[Any]]) -> list[Claim]:
    """Return claims in the order of the queue, which RETURNING does not promise."""
    return [Claim._make(row[:_FIELDS]) for row in sorted(rows, key=_IN_TURN)]


_FIELDS: Final = len(Claim._fields)
_LEASE: Final = Claim._fields.index("lease_expires_at")
_IN_TURN: Final = itemgetter(_FIELDS, _FIELDS + 1, 0)
"""By rank, by turn, and by id."""
