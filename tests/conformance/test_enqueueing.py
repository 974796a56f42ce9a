"""Enqueuing: what a new job may say of itself, many jobs at once, and one job for a track."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final

import pytest
from sqlalchemy import delete, event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from tests.support.factories import (
    EPOCH,
    Sessions,
    add_claimed,
    all_rows,
    claim_jobs,
    create_job,
    new_job,
    set_columns,
    statements_sent,
    stored_job,
    stored_row,
)
from tests.support.faults import is_sqlite, only_postgresql
from zotify_async_crud import crud
from zotify_async_crud.errors import DownloadJobExists
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobCreate, DownloadJobStatus, OnDuplicate

PENDING: Final = DownloadJobStatus.PENDING
IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS
ACTIVE: Final = [PENDING, IN_PROGRESS]
FINISHED: Final = [
    DownloadJobStatus.COMPLETED,
    DownloadJobStatus.FAILED,
    DownloadJobStatus.CANCELLED,
]
MOMENTS: Final = [
    dt.datetime(1, 1, 1, tzinfo=dt.UTC),
    dt.datetime(999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
    EPOCH,
    dt.datetime(2024, 5, 6, 7, 8, 9, tzinfo=dt.timezone(dt.timedelta(hours=5, minutes=45))),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC),
]
"""Moments at the edges of the calendar, with and without microseconds, and not in UTC."""


def unique(track_id: str = "t", **options: Any) -> DownloadJobCreate:
    """Return a job of which the track is to have one at most."""
    return new_job(track_id, unique=True, **options)


async def create_jobs(
    sessions: Sessions, *jobs: DownloadJobCreate | str, on_duplicate: Any = "existing"
) -> list[str]:
    """Commit many jobs at once and return their ids."""
    async with sessions.begin() as db:
        return await crud.create_download_jobs(db, jobs, on_duplicate=on_duplicate)


Create = Callable[[Sessions, DownloadJobCreate], Any]


async def _alone(sessions: Sessions, job: DownloadJobCreate) -> str:
    async with sessions.begin() as db:
        return (await crud.create_download_job(db, job)).job_id


async def _among_others(sessions: Sessions, job: DownloadJobCreate) -> str:
    others = new_job("before", priority=3), new_job("after", available_at=EPOCH, max_attempts=2)
    _, job_id, _ = await create_jobs(sessions, others[0], job, others[1])
    return job_id


async def _in_a_list_alone(sessions: Sessions, job: DownloadJobCreate) -> str:
    (job_id,) = await create_jobs(sessions, job)
    return job_id


CREATE: Final = [_alone, _in_a_list_alone, _among_others]


@pytest.mark.parametrize("create", CREATE)
async def test_a_new_job_waits_and_has_not_been_tried(sessions: Sessions, create: Create) -> None:
    """What the caller does not say has a default, alike for one job and for many."""
    job_id = await create(sessions, new_job("track"))

    row = await stored_row(sessions, job_id)
    del row["created_at"]
    assert row == {
        "job_id": job_id,
        "track_id": "track",
        "status": PENDING,
        "progress": 0.0,
        "error_message": None,
        "priority": 0,
        "available_at": None,
        "attempt": 0,
        "max_attempts": 5,
        "is_unique": False,
        "worker_id": None,
        "lease_expires_at": None,
        "cancel_requested": False,
        "started_at": None,
        "finished_at": None,
    }


@pytest.mark.parametrize("create", CREATE)
@pytest.mark.parametrize("unique", [False, True])
@pytest.mark.parametrize(("priority", "max_attempts"), [(-32_768, 1), (32_767, 32_767)])
async def test_a_new_job_is_stored_as_it_says(
    sessions: Sessions, create: Create, priority: int, max_attempts: int, *, unique: bool
) -> None:
    """Up to both ends of each range."""
    job = new_job(priority=priority, max_attempts=max_attempts, unique=unique)

    row = await stored_row(sessions, await create(sessions, job))

    assert (row["priority"], row["max_attempts"]) == (priority, max_attempts)
    assert row["is_unique"] is unique


@pytest.mark.parametrize("create", CREATE)
@pytest.mark.parametrize("moment", MOMENTS, ids=str)
async def test_a_job_may_become_due_at_any_moment(
    sessions: Sessions, create: Create, moment: dt.datetime
) -> None:
    """It comes back as the same moment in UTC, to the microsecond, and decides who is due."""
    job_id = await create(sessions, new_job(available_at=moment))

    stored = (await stored_job(sessions, job_id)).available_at
    assert stored == moment
    assert stored.utcoffset() == dt.timedelta(0)
    claimed = [claim.job_id for claim in await claim_jobs(sessions)]
    assert (job_id in claimed) is (moment.year < 9999)


# create_download_jobs


@pytest.mark.parametrize("kind", [list, tuple])
async def test_the_ids_of_many_jobs_come_in_the_order_given(sessions: Sessions, kind: Any) -> None:
    """Each is that of its own job."""
    jobs = kind(new_job(f"track {number}", priority=number % 7) for number in range(300))
    async with sessions.begin() as db:
        created = await crud.create_download_jobs(db, jobs)

    stored = {row[0]: row for row in (await all_rows(sessions))["download_jobs"]}
    assert len(set(created)) == len(stored) == 300
    assert [stored[job_id][1] for job_id in created] == [f"track {n}" for n in range(300)]
    assert [stored[job_id][6] for job_id in created] == [number % 7 for number in range(300)]


@pytest.mark.parametrize("make", [new_job, unique, str], ids=["", "unique", "id"])
async def test_many_jobs_are_due_in_the_order_given(
    engine: AsyncEngine, sessions: Sessions, make: Callable[[str], DownloadJobCreate | str]
) -> None:
    """Whatever their tracks are, the first comes first, and the newest is the last."""
    tracks = [f"track {number * 7919 % 1000}" for number in range(1_000)]
    created = await create_jobs(sessions, *map(make, tracks))

    claims = await claim_jobs(sessions)

    assert [claim.job_id for claim in claims] == created
    assert [claim.track_id for claim in claims] == tracks
    async with sessions() as db:
        newest_first = await crud.get_all_download_jobs(db)
    assert [job.job_id for job in reversed(newest_first)] == created
    moments = {job.created_at for job in newest_first}
    assert len(moments) == (1 if is_sqlite(engine) else len(created))


@only_postgresql
@pytest.mark.parametrize("make", [new_job, unique, str], ids=["", "unique", "id"])
async def test_no_two_jobs_of_a_list_are_created_at_one_moment(
    sessions: Sessions, make: Callable[[str], DownloadJobCreate | str]
) -> None:
    """A page of them is read from an index of these moments, with nothing to sort."""
    created = await create_jobs(sessions, *(make(f"t{n}") for n in range(1_000, 0, -1)))

    moments = [(await stored_row(sessions, job_id))["created_at"] for job_id in created]

    assert sorted(set(moments)) == moments


@pytest.mark.parametrize("make", [new_job, unique, str], ids=["", "unique", "id"])
async def test_ten_thousand_jobs_are_no_more_statements_than_one(
    engine: AsyncEngine, sessions: Sessions, make: Callable[[str], DownloadJobCreate | str]
) -> None:
    """Nor more parameters: no length of a list reaches a limit of the database's."""
    counts = []
    for number in (1, 10_000):
        jobs = [make(f"{number} {place}") for place in range(number)]
        async with sessions.begin() as db:
            await crud.get_download_job(db, "begins")
            with statements_sent(engine) as sent:
                assert len(await crud.create_download_jobs(db, jobs)) == number
            counts.append([statement.split()[0] for statement, _ in sent])
            assert max(len(parameters) for _, parameters in sent) <= 8

    assert counts == [["INSERT"], ["INSERT"]]
    assert len((await all_rows(sessions))["download_jobs"]) == 10_001


@pytest.mark.parametrize("others", [[], [new_job("u")]], ids=["alone", "among jobs"])
async def test_the_id_of_a_track_stands_for_a_job_with_defaults(
    sessions: Sessions, others: list[DownloadJobCreate]
) -> None:
    """In a list of nothing else, too, and any number of times."""
    named = await create_jobs(sessions, *others, "t", "s", "t")
    described = await create_jobs(sessions, *others, new_job("t"), new_job("s"), new_job("t"))

    rows = [await stored_row(sessions, job_id) for job_id in (*named, *described)]
    for row in rows:
        del row["job_id"], row["created_at"]
    assert rows[: len(named)] == rows[len(named) :]
    assert [row["track_id"] for row in rows[: len(named)]][-3:] == ["t", "s", "t"]


class Urgent(DownloadJobCreate):
    """A job with defaults of an application's own."""

    priority: int = 10
    unique: bool = True


@pytest.mark.parametrize("create", CREATE)
async def test_a_jobs_own_defaults_are_stored(sessions: Sessions, create: Create) -> None:
    """However it is enqueued."""
    row = await stored_row(sessions, await create(sessions, Urgent(track_id="t")))

    assert (row["priority"], row["is_unique"]) == (10, True)


@pytest.mark.parametrize("on_duplicate", ["existing", "skip", "error"])
async def test_no_jobs_are_enqueued_without_a_statement(
    engine: AsyncEngine, sessions: Sessions, on_duplicate: Any
) -> None:
    """An empty list is no mistake."""
    with statements_sent(engine) as sent:
        assert await create_jobs(sessions, on_duplicate=on_duplicate) == []

    assert sent == []


@pytest.mark.parametrize("on_duplicate", ["existing", "skip", "error"])
async def test_enqueuing_many_jobs_is_undone_by_the_callers_rollback(
    sessions: Sessions, on_duplicate: Any
) -> None:
    """The caller owns the transaction."""
    async with sessions() as db:
        jobs = [new_job(), unique("u")]
        assert len(await crud.create_download_jobs(db, jobs, on_duplicate=on_duplicate)) == 2
        await db.rollback()

    assert (await all_rows(sessions))["download_jobs"] == []


# one job for a track


async def test_a_session_that_is_given_an_existing_job_sees_it_as_it_is(
    sessions: Sessions,
) -> None:
    """Not as it would have been created, nor as the session remembers it."""
    claim = await add_claimed(sessions, unique=True, priority=5)
    async with sessions() as db:
        loaded = await db.get_one(DownloadJob, claim.job_id)
        await db.commit()
        async with sessions.begin() as other:
            await crud.report_download_progress(other, {claim: 0.5})

        existing = await crud.create_download_job(db, unique(priority=1))
        await db.commit()

    assert existing is loaded
    assert (existing.status, existing.priority, existing.progress) == (IN_PROGRESS, 5, 0.5)


@pytest.mark.parametrize("status", ACTIVE)
async def test_the_unique_job_of_a_track_is_returned_instead_of_another(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """As long as it is pending or in progress; nothing of it changes."""
    job = await create_job(sessions, unique=True)
    if status is IN_PROGRESS:
        await claim_jobs(sessions)
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        alone = await crud.create_download_job(db, unique(priority=9, max_attempts=1))
        listed = await crud.create_download_jobs(db, [unique(priority=9)])

    assert [alone.job_id, *listed] == [job.job_id, job.job_id]
    assert alone.status is status
    assert await all_rows(sessions) == before


@pytest.mark.parametrize("status", ACTIVE)
async def test_a_second_unique_job_can_be_an_error(
    sessions: Sessions, status: DownloadJobStatus
) -> None:
    """In a savepoint the caller can go on; the first job is as it was."""
    await create_job(sessions, unique=True)
    if status is IN_PROGRESS:
        await claim_jobs(sessions)
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        for jobs in ([unique()], [new_job("a"), unique(), unique("b")]):
            with pytest.raises(DownloadJobExists):
                async with db.begin_nested():
                    await crud.create_download_jobs(db, jobs, on_duplicate="error")
        with pytest.raises(DownloadJobExists):
            async with db.begin_nested():
                await crud.create_download_job(db, unique(), on_duplicate="error")

    assert await all_rows(sessions) == before


async def test_a_second_unique_job_can_be_left_out(sessions: Sessions) -> None:
    """The list tells the ids of those that were created, in their order."""
    await create_jobs(sessions, unique("b"), unique("d"))
    await claim_jobs(sessions, 1)

    created = await create_jobs(sessions, *map(unique, "edcba"), on_duplicate=OnDuplicate.SKIP)

    assert [(await stored_job(sessions, job_id)).track_id for job_id in created] == ["e", "c", "a"]
    assert len((await all_rows(sessions))["download_jobs"]) == 5


@pytest.mark.parametrize("status", FINISHED)
@pytest.mark.parametrize("on_duplicate", ["existing", "error"])
async def test_a_finished_job_stands_in_nobodys_way(
    sessions: Sessions, status: DownloadJobStatus, on_duplicate: Any
) -> None:
    """A track that was downloaded before may be wanted again."""
    before = await create_job(sessions, unique=True)
    await set_columns(sessions, before.job_id, status=status)

    async with sessions.begin() as db:
        after = await crud.create_download_job(db, unique(), on_duplicate=on_duplicate)

    assert after.job_id != before.job_id
    assert after.status is PENDING


@pytest.mark.parametrize("first", [new_job, unique], ids=["", "unique"])
@pytest.mark.parametrize("on_duplicate", ["existing", "error"])
async def test_only_unique_jobs_stand_in_each_others_way(
    sessions: Sessions, first: Callable[[], DownloadJobCreate], on_duplicate: Any
) -> None:
    """Beside a unique job of a track there may be any number of others, whoever comes first."""
    other = new_job if first is unique else unique
    created = await create_jobs(sessions, first())
    created += await create_jobs(sessions, other(), on_duplicate=on_duplicate)
    async with sessions.begin() as db:
        job = await crud.create_download_job(db, new_job(), on_duplicate=on_duplicate)

    assert len({*created, job.job_id}) == 3


async def test_a_track_that_stands_in_a_list_twice_has_one_job(sessions: Sessions) -> None:
    """And both places tell its id."""
    created = await create_jobs(sessions, *map(unique, "abcab"))

    assert created[3:] == created[:2]
    assert len(set(created)) == len((await all_rows(sessions))["download_jobs"]) == 3


async def test_of_a_track_that_stands_in_a_list_twice_the_second_can_be_left_out(
    sessions: Sessions,
) -> None:
    """The first is created as it says."""
    created = await create_jobs(
        sessions, unique("a", priority=1), unique("b"), unique("a"), on_duplicate="skip"
    )

    assert len(created) == 2
    assert (await stored_job(sessions, created[0])).priority == 1


async def test_a_track_that_stands_in_a_list_twice_can_be_an_error(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """It is found before any statement."""
    with statements_sent(engine) as sent:
        async with sessions() as db:
            with pytest.raises(DownloadJobExists):
                await crud.create_download_jobs(
                    db, [unique("a"), new_job("a"), unique("a")], on_duplicate="error"
                )

    assert sent == []


async def test_a_list_may_mix_unique_jobs_and_others(sessions: Sessions) -> None:
    """Each is treated by what it says of itself, and the ids come in the order given."""
    there = await create_jobs(sessions, unique("there"))
    jobs = [
        new_job("there"),
        unique("new"),
        new_job("new"),
        unique("there"),
        unique("new"),
        new_job("new"),
    ]
    wanted = ["there", "new", "new", "there", "new", "new"]

    existing = await create_jobs(sessions, *jobs)
    skipping = await create_jobs(sessions, *jobs, on_duplicate="skip")

    assert [(await stored_job(sessions, job_id)).track_id for job_id in existing] == wanted
    assert existing[3] == there[0]
    assert existing[4] == existing[1]
    assert len(set(existing)) == 5
    assert [(await stored_row(sessions, each))["is_unique"] for each in skipping] == [False] * 3
    assert not {*existing, *there} & {*skipping}


@only_postgresql
@pytest.mark.parametrize("gone", ["finished", "deleted"])
async def test_a_job_that_is_over_between_two_statements_stands_in_nobodys_way(
    engine: AsyncEngine, sessions: Sessions, gone: str
) -> None:
    """It barred the new one and then could not be found: the new one is created after all."""
    before = await create_jobs(sessions, unique("a"), unique("b"))
    ended: list[str] = []

    async def end_one() -> None:
        async with sessions.begin() as other:
            if gone == "finished":
                job = await other.get_one(DownloadJob, before[0])
                await crud.update_download_job_status(other, job, DownloadJobStatus.COMPLETED)
            else:
                await other.execute(delete(DownloadJob).where(DownloadJob.job_id == before[0]))

    @event.listens_for(engine.sync_engine, "after_cursor_execute")
    def meanwhile(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT") and not ended:
            ended.append(before[0])
            await_only(end_one())

    created = await create_jobs(sessions, unique("b"), unique("a"), unique("a"))

    assert ended == before[:1]
    assert created[0] == before[1]
    assert created[1] == created[2]
    assert created[1] not in before
    assert (await stored_job(sessions, created[1])).status is PENDING
