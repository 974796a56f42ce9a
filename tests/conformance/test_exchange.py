"""Exchanges: jobs settled and others claimed at once, on one contract with doing it one by one."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import (
    EPOCH,
    EXPIRES_AT,
    LEASE,
    Sessions,
    add_claimed,
    add_jobs,
    all_rows,
    claim_jobs,
    claim_one,
    completed,
    expire_leases,
    failed,
    new_claim,
    released,
    set_columns,
    statements_sent,
    stored_job,
    stored_row,
)
from tests.support.faults import is_sqlite, only_postgresql
from zotify_async_crud import crud, database
from zotify_async_crud.schemas import Claim, DownloadJobStatus, Exchange, Settlement

PENDING: Final = DownloadJobStatus.PENDING
IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS
COMPLETED: Final = DownloadJobStatus.COMPLETED
FAILED: Final = DownloadJobStatus.FAILED
CANCELLED: Final = DownloadJobStatus.CANCELLED
MINUTE: Final = dt.timedelta(minutes=1)


async def exchange(
    sessions: Sessions, *settlements: Settlement, limit: int = 1_000, worker_id: str = "w1"
) -> Exchange:
    """Commit an exchange."""
    async with sessions.begin() as db:
        return await crud.exchange_download_jobs(
            db, settlements, worker_id=worker_id, limit=limit, lease=LEASE
        )


def job_ids(claims: list[Claim]) -> list[str]:
    """Return the ids of the jobs that are claimed, in order."""
    return [claim.job_id for claim in claims]


async def statuses(sessions: Sessions, claims: list[Claim]) -> list[DownloadJobStatus]:
    """Return what the jobs are now."""
    return [(await stored_job(sessions, claim.job_id)).status for claim in claims]


async def test_an_exchange_settles_and_claims(sessions: Sessions) -> None:
    """The claims are like those of a claim: in the order of the queue, with all that they tell."""
    queued = await add_jobs(sessions, 6)
    await set_columns(sessions, queued[5], priority=1)
    *done, _ = await claim_jobs(sessions, 3)

    result = await exchange(sessions, *map(completed, done), limit=2, worker_id="w2")

    assert result.lost == []
    assert job_ids(result.claims) == queued[2:4]
    for claim in result.claims:
        row = await stored_row(sessions, claim.job_id)
        assert claim == Claim(claim.job_id, row["track_id"], 1, 5, "w2", row["lease_expires_at"])
        assert (row["status"], row["worker_id"]) == (IN_PROGRESS, "w2")
    assert await statuses(sessions, done) == [COMPLETED, COMPLETED]


ONE_BY_ONE: Final[dict[str, Any]] = {
    "completed": (completed, crud.complete_download_job),
    "failed": (failed, lambda db, claim: crud.fail_download_job(db, claim, "no route")),
    "failed without an error": (
        lambda claim: Settlement(claim, FAILED),
        lambda db, claim: crud.fail_download_job(db, claim, "no route"),
    ),
    "to be retried": (
        lambda claim: failed(claim, "no route", MINUTE),
        lambda db, claim: crud.fail_download_job(db, claim, "no route", retry_in=MINUTE),
    ),
    "released": (released, lambda db, claim: crud.release_download_jobs(db, [claim])),
}
VARYING: Final = {"created_at", "started_at", "finished_at", "available_at", "job_id", "track_id"}
"""Columns that two jobs may differ in which were treated alike."""


@pytest.mark.parametrize("limit", [0, 1], ids=["settling only", "claiming too"])
@pytest.mark.parametrize("cancel", [False, True], ids=["", "to be cancelled"])
@pytest.mark.parametrize("attempt", [1, 5], ids=["first attempt", "last attempt"])
@pytest.mark.parametrize("how", ONE_BY_ONE)
async def test_an_exchange_settles_as_the_coroutines_for_one_job_do(
    sessions: Sessions, how: str, attempt: int, *, cancel: bool, limit: int
) -> None:
    """Every column that does not tell a time is the same, and of those that do the same are set."""
    settlement, alone = ONE_BY_ONE[how]
    await add_jobs(sessions, 3)
    one, other = await claim_jobs(sessions, 2)
    await set_columns(sessions, "job-00002", priority=1)
    await set_columns(
        sessions,
        *job_ids([one, other]),
        attempt=attempt,
        cancel_requested=cancel,
        progress=0.5,
        error_message="of an attempt before",
    )
    one, other = (claim._replace(attempt=attempt) for claim in (one, other))

    async with sessions.begin() as db:
        await alone(db, other)
    result = await exchange(sessions, settlement(one), limit=limit)

    assert job_ids(result.claims) == ["job-00002"][:limit]
    row, expected = [await stored_row(sessions, claim.job_id) for claim in (one, other)]
    if how == "failed without an error":
        expected["error_message"] = None
    assert {name: row[name] for name in row.keys() - VARYING} == {
        name: expected[name] for name in row.keys() - VARYING
    }
    assert [row[name] is None for name in sorted(VARYING)] == [
        expected[name] is None for name in sorted(VARYING)
    ]


async def test_each_settlement_of_an_exchange_is_its_own(sessions: Sessions) -> None:
    """Outcomes, errors and delays do not mix, however many there are."""
    await add_jobs(sessions, 500)
    claims = await claim_jobs(sessions)
    settlements = []
    for number, claim in enumerate(claims):
        delay = MINUTE + dt.timedelta(seconds=number)
        settlements.append(
            [
                completed(claim),
                failed(claim, f"error {number}"),
                failed(claim, f"again {number}", delay),
                Settlement(claim, FAILED),
            ][number % 4]
        )

    result = await exchange(sessions, *settlements)

    assert result == Exchange([], [])
    async with sessions() as db:
        jobs = (await crud.list_download_jobs(db, limit=1_000)).items[::-1]
        first_retry = jobs[2].available_at
    assert [(job.status, job.error_message) for job in jobs] == [
        [
            (COMPLETED, None),
            (FAILED, f"error {number}"),
            (PENDING, f"again {number}"),
            (FAILED, None),
        ][number % 4]
        for number in range(500)
    ]
    assert first_retry is not None
    for number, job in enumerate(jobs[2::4]):
        assert job.available_at is not None
        shift = job.available_at - first_retry
        assert abs(shift - dt.timedelta(seconds=4 * number)) <= dt.timedelta(milliseconds=2)


@pytest.mark.parametrize("outcome", ["completed", "failed", "pending"])
async def test_an_outcome_may_be_given_as_plain_text(sessions: Sessions, outcome: str) -> None:
    """A StrEnum's text is as good as its member, as everywhere."""
    claim = await add_claimed(sessions)

    await exchange(sessions, Settlement(claim, outcome), limit=0)  # type: ignore[arg-type]

    assert await statuses(sessions, [claim]) == [DownloadJobStatus(outcome)]


@pytest.mark.parametrize("limit", [0, 5])
async def test_an_exchange_of_nothing_only_claims(sessions: Sessions, limit: int) -> None:
    """As many as were asked for, which may be none."""
    queued = await add_jobs(sessions, 10)

    result = await exchange(sessions, limit=limit)

    assert (job_ids(result.claims), result.lost) == (queued[:limit], [])


async def test_an_exchange_for_no_other_job_claims_none(sessions: Sessions) -> None:
    """A worker that shuts down settles what it has, and takes nothing more."""
    queued = await add_jobs(sessions, 3)
    claim = await claim_one(sessions)

    assert await exchange(sessions, completed(claim), limit=0) == Exchange([], [])
    assert job_ids(await claim_jobs(sessions)) == queued[1:]


@pytest.mark.parametrize("limit", [0, 10], ids=["settling only", "claiming too"])
async def test_claims_that_do_not_hold_are_told_and_the_others_settled(
    sessions: Sessions, limit: int
) -> None:
    """What was rescued, claimed by others, or never was; nothing is written for those."""
    await add_jobs(sessions, 3)
    rescued, taken, holds = await claim_jobs(sessions)
    await set_columns(sessions, *job_ids([rescued, taken]), lease_expires_at=EPOCH)
    async with sessions.begin() as db:
        assert (await crud.rescue_expired_download_jobs(db)).retried == 2
    await set_columns(sessions, rescued.job_id, available_at=EXPIRES_AT)
    assert (await claim_one(sessions, worker_id="w2")).job_id == taken.job_id
    before = [await stored_row(sessions, claim.job_id) for claim in (rescued, taken)]

    unknown = new_claim()
    settlements = [completed(unknown), failed(rescued), completed(holds), released(taken)]
    result = await exchange(sessions, *settlements, limit=limit)

    assert result == Exchange([], [unknown, rescued, taken])
    assert (await stored_job(sessions, holds.job_id)).status is COMPLETED
    assert [await stored_row(sessions, claim.job_id) for claim in (rescued, taken)] == before


@pytest.mark.parametrize("limit", [0, 10], ids=["settling only", "claiming too"])
@pytest.mark.parametrize("settlement", [completed, failed])
async def test_what_was_settled_already_may_be_sent_again(
    sessions: Sessions, settlement: Any, limit: int
) -> None:
    """As after a lost reply: it is no loss, and it changes nothing, also where it differs."""
    await add_jobs(sessions, 2)
    claims = await claim_jobs(sessions)
    await exchange(sessions, *map(settlement, claims), limit=limit)
    before = await all_rows(sessions)

    again = await exchange(sessions, *map(settlement, claims), limit=limit)
    otherwise = await exchange(sessions, *(failed(claim, "other") for claim in claims), limit=limit)

    assert again == otherwise == Exchange([], [])
    assert await all_rows(sessions) == before


@pytest.mark.parametrize("again", [released, lambda claim: failed(claim, retry_in=MINUTE)])
async def test_what_was_given_back_already_is_the_workers_no_more(
    sessions: Sessions, again: Any
) -> None:
    """The row does not tell who gave it back, so this counts as lost; and it changes nothing."""
    claim = await add_claimed(sessions)
    await exchange(sessions, again(claim), limit=0)
    before = await all_rows(sessions)

    assert await exchange(sessions, again(claim), limit=0) == Exchange([], [claim])
    assert await all_rows(sessions) == before


async def test_what_another_settled_since_is_lost_also_where_it_is_finished(
    sessions: Sessions,
) -> None:
    """A finished job is the work of its last attempt only, and of the worker that did it."""
    stale = await add_claimed(sessions)
    await expire_leases(sessions)
    async with sessions.begin() as db:
        await crud.rescue_expired_download_jobs(db)
    current = await claim_one(sessions, worker_id="w2")
    await exchange(sessions, completed(current))
    forged = current._replace(worker_id="w1")
    before = await all_rows(sessions)

    result = await exchange(sessions, completed(stale), failed(forged))

    assert result == Exchange([], [stale, forged])
    assert await all_rows(sessions) == before


@pytest.mark.parametrize("limit", [0, 10], ids=["settling only", "claiming too"])
async def test_a_stale_and_a_current_settlement_of_one_job_do_not_mix(
    sessions: Sessions, limit: int
) -> None:
    """One worker may have both, when it was given its own job again; only the newer one counts."""
    stale = await add_claimed(sessions)
    await expire_leases(sessions)
    async with sessions.begin() as db:
        await crud.rescue_expired_download_jobs(db)
    current = await claim_one(sessions)

    result = await exchange(sessions, failed(stale), completed(current), failed(stale), limit=limit)

    assert result == Exchange([], [stale, stale])
    assert (await stored_job(sessions, stale.job_id)).status is COMPLETED


@pytest.mark.parametrize("back", [released, lambda claim: failed(claim, retry_in=dt.timedelta(0))])
async def test_what_is_given_back_is_claimed_by_a_later_call_only(
    sessions: Sessions, back: Any
) -> None:
    """Although it is due at once: the claims are those of the moment before."""
    first, second = await add_jobs(sessions, 2)
    claims = await claim_jobs(sessions, 1)

    result = await exchange(sessions, *map(back, claims))
    later = await exchange(sessions)

    assert job_ids(result.claims) == [second]
    assert [(claim.job_id, claim.attempt) for claim in later.claims] == [(first, 2)]


async def test_a_paused_queue_settles_and_gives_out_nothing(sessions: Sessions) -> None:
    """Running jobs go on while it is paused."""
    await add_jobs(sessions, 2)
    claim = await claim_one(sessions)
    async with sessions.begin() as db:
        await crud.pause_download_queue(db)

    assert await exchange(sessions, completed(claim)) == Exchange([], [])
    assert await statuses(sessions, [claim]) == [COMPLETED]


@pytest.mark.parametrize("plain", [False, True], ids=["the library's engine", "a plain engine"])
async def test_an_exchange_is_undone_by_the_callers_rollback(
    sessions: Sessions, plain_sessions: Sessions, *, plain: bool
) -> None:
    """What it settled and what it claimed."""
    await add_jobs(sessions, 4)
    claims = await claim_jobs(sessions, 2)
    before = await all_rows(sessions)

    async with (plain_sessions if plain else sessions)() as db:
        result = await crud.exchange_download_jobs(
            db, [completed(claim) for claim in claims], worker_id="w", limit=2, lease=LEASE
        )
        only_claims = await crud.exchange_download_jobs(db, [], worker_id="w", limit=2, lease=LEASE)
        await db.rollback()

    assert (len(result.claims), only_claims.claims) == (2, [])
    assert await all_rows(sessions) == before


@pytest.mark.parametrize("count", [1, 500])
async def test_an_exchange_costs_few_statements_however_much_it_settles(
    engine: AsyncEngine, sessions: Sessions, count: int
) -> None:
    """PostgreSQL does both in one, SQLite in two, and to learn what is lost takes one more."""
    await add_jobs(sessions, 2 * count)
    claims = await claim_jobs(sessions, count)
    async with sessions.begin() as db:
        await crud.get_download_claims(db, worker_id="w1")  # begins
        with statements_sent(engine) as sent:
            result = await crud.exchange_download_jobs(
                db, list(map(completed, claims)), worker_id="w1", limit=count, lease=LEASE
            )
            first = len(sent)
            await crud.exchange_download_jobs(
                db, list(map(released, claims)), worker_id="w1", limit=count, lease=LEASE
            )

    assert len(result.claims) == count
    assert (first, len(sent) - first) == ((2, 3) if is_sqlite(engine) else (1, 2))


@only_postgresql
async def test_an_exchange_can_be_a_statement_that_commits_itself(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """Nothing else is sent over such a connection: neither BEGIN nor COMMIT."""
    queued = await add_jobs(sessions, 4)
    done = await claim_jobs(sessions, 2)
    alone = database.create_session_factory(engine.execution_options(isolation_level="AUTOCOMMIT"))

    with statements_sent(engine) as sent:
        async with alone() as db:
            result = await crud.exchange_download_jobs(
                db, list(map(completed, done)), worker_id="w1", limit=5, lease=LEASE
            )
            assert await statuses(sessions, [*done, *result.claims]) == [
                COMPLETED,
                COMPLETED,
                IN_PROGRESS,
                IN_PROGRESS,
            ]
            await db.rollback()

    assert job_ids(result.claims) == queued[2:]
    assert len([each for each in sent if "UPDATE" in each[0]]) == 1
    assert await statuses(sessions, done) == [COMPLETED, COMPLETED]
