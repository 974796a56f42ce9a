"""Races on the queue: no job is lost, held twice or finished twice, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from tests.support.factories import (
    EPOCH,
    LEASE,
    Sessions,
    add_claimed,
    add_jobs,
    claim_jobs,
    claim_one,
    completed,
    create_job,
    expire_leases,
    failed,
    new_job,
    stored_job,
)
from tests.support.faults import only_postgresql, until_waiting_for_lock
from zotify_async_crud import crud, database
from zotify_async_crud.errors import DownloadJobExists, LeaseLost, TransactionConflict
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import Claim, DownloadJobStatus, OnDuplicate

PENDING: Final = DownloadJobStatus.PENDING
IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS
COMPLETED: Final = DownloadJobStatus.COMPLETED
FAILED: Final = DownloadJobStatus.FAILED
CANCELLED: Final = DownloadJobStatus.CANCELLED
JOBS: Final = 2_000
TASKS: Final = 20
ROUNDS: Final = 20
"""How often something is tried that a bug may survive by luck."""


async def statuses(sessions: Sessions) -> dict[DownloadJobStatus, int]:
    """Count the jobs of each status."""
    counted = select(DownloadJob.status, func.count()).group_by(DownloadJob.status)
    async with sessions() as db:
        return {status: count for status, count in await db.execute(counted)}  # noqa: C416 - rows


# claiming and completing


async def _claim_and_complete(sessions: Sessions, worker_id: str) -> list[Claim]:
    """Work as a worker does that claims some jobs, and completes each of them by itself."""
    done: list[Claim] = []
    while claims := await claim_jobs(sessions, 7, worker_id=worker_id):
        for claim in claims:
            async with sessions.begin() as db:
                await crud.complete_download_job(db, claim)
        done += claims
    return done


async def _exchange(sessions: Sessions, worker_id: str) -> list[Claim]:
    """Work as a worker does that settles what it has with the claim of the next."""
    done: list[Claim] = []
    claims: list[Claim] = []
    while True:
        async with sessions.begin() as db:
            exchange = await crud.exchange_download_jobs(
                db, list(map(completed, claims)), worker_id=worker_id, limit=20, lease=LEASE
            )
        assert exchange.lost == []
        done += claims
        claims = exchange.claims
        if not claims:
            return done


async def test_many_tasks_work_off_the_queue_and_hold_each_job_once(sessions: Sessions) -> None:
    """Some one by one and some by exchanges: every job is completed by its first attempt."""
    queued = await add_jobs(sessions, JOBS)

    async with asyncio.timeout(120):
        done = await asyncio.gather(
            *(
                (_exchange if number % 2 else _claim_and_complete)(sessions, f"w{number}")
                for number in range(TASKS)
            )
        )

    claims = [claim for each in done for claim in each]
    assert sorted(claim.job_id for claim in claims) == queued
    assert {claim.attempt for claim in claims} == {1}
    assert await statuses(sessions) == {COMPLETED: JOBS}


async def test_claims_and_pickups_do_not_get_the_same_job(sessions: Sessions) -> None:
    """Whoever knows no claims works beside those who do."""
    queued = await add_jobs(sessions, 300)

    async def pick_up() -> list[str]:
        picked: list[str] = []
        while True:
            async with sessions.begin() as db:
                job = await crud.get_next_pending_download_job(db)
                if job is None:
                    return picked
                await crud.update_download_job_status(db, job, IN_PROGRESS)
            picked.append(job.job_id)

    async def claim(number: int) -> list[str]:
        claimed: list[str] = []
        while claims := await claim_jobs(sessions, 3, worker_id=f"w{number}"):
            claimed += [each.job_id for each in claims]
        return claimed

    async with asyncio.timeout(120):
        got = await asyncio.gather(*(pick_up() for _ in range(5)), *(claim(n) for n in range(5)))

    assert sorted(job_id for each in got for job_id in each) == queued
    assert await statuses(sessions) == {IN_PROGRESS: 300}


# rescuing


async def test_a_job_is_completed_once_however_often_it_is_rescued(sessions: Sessions) -> None:
    """Most leases end at once, so that completions race with rescues; one of the two wins."""
    async with sessions.begin() as db:
        jobs = [new_job(max_attempts=32_767) for _ in range(100)]
        queued = await crud.create_download_jobs(db, jobs)
    claimed: list[tuple[str, int]] = []
    done: list[str] = []
    lost = 0
    leases = itertools.cycle([1e-6, 1e-6, 60])

    async def work(number: int) -> None:
        nonlocal lost
        while len(done) < len(queued):
            lease = next(leases)
            for claim in await claim_jobs(sessions, 3, worker_id=f"w{number}", lease=lease):
                claimed.append((claim.job_id, claim.attempt))
                try:
                    async with sessions.begin() as db:
                        await crud.complete_download_job(db, claim)
                except LeaseLost:
                    lost += 1
                else:
                    done.append(claim.job_id)

    async def rescue() -> None:
        while len(done) < len(queued):
            async with sessions.begin() as db:
                await crud.rescue_expired_download_jobs(db)

    async with asyncio.timeout(120):
        await asyncio.gather(*(work(number) for number in range(8)), *(rescue() for _ in range(3)))

    assert sorted(done) == sorted(queued)
    assert len(set(claimed)) == len(claimed) == len(done) + lost
    assert await statuses(sessions) == {COMPLETED: 100}


async def test_without_a_fence_a_job_is_completed_twice(sessions: Sessions) -> None:
    """The control: what the tests above would see if a completion asked for the job's id only."""
    first = await add_claimed(sessions)
    await expire_leases(sessions)
    async with sessions.begin() as db:
        await crud.rescue_expired_download_jobs(db)
    second = await claim_one(sessions, worker_id="w2")

    done: list[str] = []
    for claim in (first, second):
        unfenced = update(DownloadJob).where(DownloadJob.job_id == claim.job_id)
        async with sessions.begin() as db:
            finished = await db.execute(
                unfenced.values(status=COMPLETED, lease_expires_at=None).returning(
                    DownloadJob.job_id
                )
            )
            done += finished.scalars().all()

    assert done == [first.job_id] * 2


async def test_many_rescuers_count_each_job_once(sessions: Sessions) -> None:
    """What each of them says that it rescued adds up to the jobs that were lost."""
    await add_jobs(sessions, 500)
    await claim_jobs(sessions)
    await expire_leases(sessions)

    async def rescue() -> int:
        async with sessions.begin() as db:
            return (await crud.rescue_expired_download_jobs(db)).retried

    assert sum(await asyncio.gather(*(rescue() for _ in range(TASKS)))) == 500
    assert await statuses(sessions) == {PENDING: 500}


async def test_renewals_and_rescues_agree_on_who_holds_a_job(sessions: Sessions) -> None:
    """A renewal that came in time keeps the job, one that came too late is told so."""
    for _ in range(ROUNDS):
        queued = await add_jobs(sessions, 20, prefix=f"round-{random.random()}")
        claims = await claim_jobs(sessions)
        await expire_leases(sessions)

        async def renew(claims: list[Claim] = claims) -> set[str]:
            async with sessions.begin() as db:
                renewal = await crud.renew_download_leases(db, claims, lease=LEASE)
            return {claim.job_id for claim in renewal.renewed}

        async def rescue() -> int:
            async with sessions.begin() as db:
                return (await crud.rescue_expired_download_jobs(db)).retried

        renewed, rescued = await asyncio.gather(renew(), rescue())
        async with sessions.begin() as db:
            held = await crud.get_download_claims(db, worker_id="w1")
            settled = [failed(claim) for claim in held]
            await crud.exchange_download_jobs(db, settled, worker_id="w1", limit=0, lease=LEASE)
            await crud.rescue_expired_download_jobs(db)

        # one that was just being written by the other is neither renewed nor rescued
        assert renewed <= {claim.job_id for claim in held}
        assert len(held) + rescued == len(queued)
        async with sessions.begin() as db:
            await db.execute(update(DownloadJob).values(status=COMPLETED))


# cancelling


async def test_a_job_that_is_cancelled_while_it_is_claimed_is_not_run_in_silence(
    sessions: Sessions,
) -> None:
    """Either nobody gets it, or whoever does is told that it is to stop."""
    queued = await add_jobs(sessions, 200)

    async def cancel(job_ids: list[str]) -> dict[str, DownloadJobStatus]:
        became = {}
        for job_id in job_ids:
            async with sessions.begin() as db:
                became[job_id] = (await crud.cancel_download_job(db, job_id)).status
        return became

    async def claim(number: int) -> list[str]:
        claimed: list[str] = []
        while claims := await claim_jobs(sessions, 2, worker_id=f"w{number}"):
            claimed += [each.job_id for each in claims]
        return claimed

    async with asyncio.timeout(60):
        *cancelled, first, second = await asyncio.gather(
            cancel(queued[::2]), cancel(queued[1::2]), claim(1), claim(2)
        )

    became: dict[str, DownloadJobStatus] = {}
    for each in cancelled:
        assert isinstance(each, dict)
        became |= each
    claimed = {*first, *second}
    assert {job_id for job_id, status in became.items() if status is IN_PROGRESS} == claimed
    assert {job_id for job_id, status in became.items() if status is CANCELLED} == (
        {*queued} - claimed
    )
    async with sessions() as db:
        stored = await crud.get_all_download_jobs(db)
    assert {job.job_id: job.status for job in stored} == became
    assert all(job.cancel_requested for job in stored)


# one job for a track


Create = Callable[[AsyncSession, list[str]], Awaitable[list[str]]]


async def _one_by_one(db: AsyncSession, tracks: list[str]) -> list[str]:
    # in one order, as whoever locks several things one after the other has to
    return [
        (await crud.create_download_job(db, new_job(track, unique=True))).job_id
        for track in sorted(tracks)
    ]


async def _at_once(db: AsyncSession, tracks: list[str]) -> list[str]:
    return await crud.create_download_jobs(db, [new_job(track, unique=True) for track in tracks])


@pytest.mark.parametrize(("create", "rounds", "count"), [(_one_by_one, 1, 8), (_at_once, 5, 40)])
async def test_many_tasks_that_want_the_same_tracks_get_one_job_for_each(
    sessions: Sessions, create: Create, rounds: int, count: int
) -> None:
    """In whatever order they ask: none gets an error, and all are told the same ids."""
    for number in range(rounds):
        tracks = [f"{number}-{place}" for place in range(count)]

        async def ask(seed: int, tracks: list[str] = tracks) -> dict[str, str]:
            wanted = random.Random(seed).sample(tracks, count * 3 // 4)
            async with sessions.begin() as db:
                created = await create(db, wanted)
            return dict(
                zip(sorted(wanted) if create is _one_by_one else wanted, created, strict=True)
            )

        async with asyncio.timeout(60):
            answers = await asyncio.gather(*(ask(seed) for seed in range(TASKS)))

        ids: dict[str, set[str]] = {}
        for answer in answers:
            for track, job_id in answer.items():
                ids.setdefault(track, set()).add(job_id)
        assert {track: len(found) for track, found in ids.items()} == dict.fromkeys(ids, 1)
    assert await statuses(sessions) == {PENDING: rounds * count}


@pytest.mark.parametrize("on_duplicate", ["skip", "error"])
async def test_of_many_tasks_that_want_one_track_one_creates_the_job(
    sessions: Sessions, on_duplicate: Any
) -> None:
    """The others are told that it is there."""

    async def ask() -> list[str]:
        async with sessions.begin() as db:
            return await crud.create_download_jobs(
                db, [new_job(unique=True)], on_duplicate=on_duplicate
            )

    answers = await asyncio.gather(*(ask() for _ in range(TASKS)), return_exceptions=True)

    created = [answer for answer in answers if isinstance(answer, list) and answer]
    others = [answer for answer in answers if answer not in created]
    assert len(created) == 1
    if on_duplicate == OnDuplicate.SKIP:
        assert others == [[]] * (TASKS - 1)
    else:
        assert {type(answer) for answer in others} == {DownloadJobExists}
    assert await statuses(sessions) == {PENDING: 1}


async def test_a_retry_and_a_new_job_of_one_track_leave_one_of_them(sessions: Sessions) -> None:
    """The retry succeeds or is to be run again, and the new job is created or the retried one."""
    for number in range(ROUNDS):
        track = f"t{number}"
        claim = await add_claimed(sessions, track, unique=True)
        async with sessions.begin() as db:
            await crud.fail_download_job(db, claim, "no route")

        async def retry() -> int:
            with database.translated_errors():
                async with sessions.begin() as db:
                    return await crud.retry_failed_download_jobs(db)

        async def create(track: str = track) -> str:
            with database.translated_errors():
                async with sessions.begin() as db:
                    return (await crud.create_download_job(db, new_job(track, unique=True))).job_id

        retried, created = await asyncio.gather(retry(), create(), return_exceptions=True)

        assert retried in {0, 1} or isinstance(retried, TransactionConflict)
        assert isinstance(created, str)
        if retried == 1:
            assert created == claim.job_id
        active = DownloadJob.status.in_([PENDING, IN_PROGRESS])
        async with sessions.begin() as db:
            found = await db.scalars(select(DownloadJob.job_id).where(active))
            assert found.all() == [created]
            await db.execute(update(DownloadJob).values(status=COMPLETED))


@only_postgresql
async def test_a_retry_that_meets_a_new_job_of_the_track_is_to_be_run_again(
    url: str, sessions: Sessions
) -> None:
    """It could not see the other one when it began; the next time it does."""
    claim = await add_claimed(sessions, unique=True)
    async with sessions.begin() as db:
        await crud.fail_download_job(db, claim, "no route")

    async def retry() -> int:
        async with sessions.begin() as db:
            return await crud.retry_failed_download_jobs(db)

    async with sessions.begin() as db:
        await crud.create_download_job(db, new_job(unique=True))
        retrying = asyncio.create_task(retry())
        await until_waiting_for_lock(url)
    with pytest.raises(TransactionConflict) as conflict:
        await retrying

    assert conflict.value.retry_safe
    assert await retry() == 0
    assert (await stored_job(sessions, claim.job_id)).status is FAILED


# pruning and pausing


async def test_many_that_prune_delete_each_job_once(sessions: Sessions) -> None:
    """What each of them says that it deleted adds up to what was there."""
    jobs = await add_jobs(sessions, 500, status=COMPLETED)
    async with sessions.begin() as db:
        await db.execute(update(DownloadJob).values(finished_at=EPOCH))
    kept = await create_job(sessions)

    async def prune() -> int:
        deleted = 0
        while True:
            async with sessions.begin() as db:
                count = await crud.prune_download_jobs(db, older_than=60, limit=30)
            if not count:
                return deleted
            deleted += count

    assert sum(await asyncio.gather(*(prune() for _ in range(5)))) == len(jobs)
    assert await statuses(sessions) == {PENDING: 1}
    assert (await stored_job(sessions, kept.job_id)).status is PENDING


async def test_many_that_pause_and_resume_leave_one_row(sessions: Sessions) -> None:
    """The last one wins, and none gets an error."""

    async def change(number: int) -> None:
        async with sessions.begin() as db:
            await (crud.pause_download_queue if number % 2 else crud.resume_download_queue)(db)

    await asyncio.gather(*(change(number) for number in range(TASKS)))
    await change(1)

    async with sessions() as db:
        assert (await crud.get_download_queue_stats(db)).paused is True
