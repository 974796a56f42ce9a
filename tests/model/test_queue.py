"""Random operations on the queue, against a model of it, on both databases."""

from __future__ import annotations

import asyncio
import copy
import datetime as dt
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import SearchStrategy
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from tests.model.queue_model import QueueModel
from tests.support.factories import EPOCH, EXPIRES_AT, LEASE, new_job
from tests.support.secrets import KEYRING
from zotify_async_crud import crud, database
from zotify_async_crud.errors import (
    DownloadJobClaimed,
    DownloadJobExists,
    DownloadJobNotFound,
    LeaseLost,
)
from zotify_async_crud.models import Base, DownloadJob, DownloadQueue
from zotify_async_crud.schemas import (
    FINISHED,
    Claim,
    DownloadJobCreate,
    DownloadJobStatus,
    OnDuplicate,
    Settlement,
)

T = TypeVar("T")

PENDING: Final = DownloadJobStatus.PENDING
IN_PROGRESS: Final = DownloadJobStatus.IN_PROGRESS
COMPLETED: Final = DownloadJobStatus.COMPLETED
FAILED: Final = DownloadJobStatus.FAILED
HOUR: Final = dt.timedelta(hours=1)
JOBS: Final = Base.metadata.tables["download_jobs"]

ENDINGS: Final = st.sampled_from([True, True, True, False])
"""Whether a transaction is committed."""

WORKERS: Final = st.sampled_from(["w1", "w2"])
STATUSES: Final = st.sampled_from(DownloadJobStatus)
TRACKS: Final = st.sampled_from("abc")
NEW_JOBS: Final = st.builds(
    new_job,
    TRACKS,
    priority=st.sampled_from([-1, 0, 0, 1]),
    available_at=st.sampled_from([None, None, None, EPOCH, EXPIRES_AT]),
    max_attempts=st.integers(1, 3),
    unique=st.booleans(),
)
RETRIES: Final = st.sampled_from([None, dt.timedelta(0), HOUR])


class World:
    """A database, an engine, and the one loop that its connections belong to."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._engine = database.create_engine(url, token_keyring=KEYRING)
        self.sessions = database.create_session_factory(self._engine)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* to its end."""
        return self._runner.run(work)

    def close(self) -> None:
        """Close what is open."""
        self.run(self._engine.dispose())
        self._runner.close()


def _token(claim: Claim) -> tuple[str, int]:
    return claim.job_id, claim.attempt


def lists_of(values: SearchStrategy[Claim]) -> SearchStrategy[list[Claim]]:
    """Return lists of a few claims, each once."""
    return st.lists(values, min_size=1, max_size=4, unique_by=_token)


class QueueMachine(RuleBasedStateMachine):
    """Does to a database and to the model the same, and compares all that both know."""

    world: ClassVar[World]

    jobs: Bundle[str] = Bundle("jobs")
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.model = QueueModel()
        self.given_out: set[tuple[str, int]] = set()
        self.attempts: dict[str, int] = {}
        self.run(self._empty)

    async def _empty(self, db: AsyncSession) -> None:
        await db.execute(delete(DownloadJob))
        await db.execute(delete(DownloadQueue))

    def run(self, work: Callable[[AsyncSession], Awaitable[T]], *, commits: bool = True) -> T:
        """Run *work* in a transaction."""

        async def transaction() -> T:
            async with self.world.sessions() as db:
                result = await work(db)
                await (db.commit() if commits else db.rollback())
                return result

        return self.world.run(transaction())

    def after(self, *, commits: bool) -> QueueModel:
        """Return the model to change: a copy where what happens is rolled back."""
        return self.model if commits else copy.deepcopy(self.model)

    def stored(self) -> dict[str, dict[str, Any]]:
        """Return the whole table."""

        async def read(db: AsyncSession) -> dict[str, dict[str, Any]]:
            rows = (await db.execute(select(JOBS))).mappings()
            return {row["job_id"]: dict(row) for row in rows}

        return self.run(read)

    # enqueuing

    @rule(
        target=jobs,
        tracks=st.lists(TRACKS, min_size=1, max_size=4),
        as_objects=st.booleans(),
        policy=st.sampled_from(OnDuplicate),
        commits=ENDINGS,
    )
    def create_defaults(
        self, tracks: list[str], policy: OnDuplicate, *, as_objects: bool, commits: bool
    ) -> Any:
        """New jobs at once of which nothing is said but their tracks."""
        wanted = [DownloadJobCreate(track_id=track) for track in tracks]

        async def create(db: AsyncSession) -> list[str]:
            given = wanted if as_objects else tracks
            return await crud.create_download_jobs(db, given, on_duplicate=policy)

        return self._created(create, wanted, policy, commits=commits)

    @rule(
        target=jobs,
        wanted=st.lists(NEW_JOBS, min_size=1, max_size=4),
        policy=st.sampled_from(OnDuplicate),
        commits=ENDINGS,
    )
    def create_many(
        self, wanted: list[DownloadJobCreate], policy: OnDuplicate, *, commits: bool
    ) -> Any:
        """New jobs at once."""

        async def create(db: AsyncSession) -> list[str]:
            return await crud.create_download_jobs(db, wanted, on_duplicate=policy)

        return self._created(create, wanted, policy, commits=commits)

    @rule(
        target=jobs,
        wanted=NEW_JOBS,
        policy=st.sampled_from([OnDuplicate.EXISTING, OnDuplicate.ERROR]),
        commits=ENDINGS,
    )
    def create_one(self, wanted: DownloadJobCreate, policy: Any, *, commits: bool) -> Any:
        """One new job."""

        async def create(db: AsyncSession) -> list[str]:
            return [(await crud.create_download_job(db, wanted, on_duplicate=policy)).job_id]

        return self._created(create, [wanted], policy, commits=commits)

    def _created(
        self,
        create: Callable[[AsyncSession], Awaitable[list[str]]],
        wanted: Sequence[DownloadJobCreate],
        policy: OnDuplicate,
        *,
        commits: bool,
    ) -> Any:
        try:
            expected = self.model.create(wanted, policy)
        except DownloadJobExists:
            with pytest.raises(DownloadJobExists):
                self.run(create)
            return multiple()
        created = self.run(create, commits=commits)
        assert len(created) == len(expected)
        new: dict[int, str] = {}
        for job_id, place in zip(created, expected, strict=True):
            if isinstance(place, str):
                assert job_id == place
            else:
                assert new.setdefault(place, job_id) == job_id
        assert len(set(new.values())) == len(new)
        assert list(new.values()) == sorted(new.values())
        if not commits:
            return multiple()
        for place, job_id in new.items():
            job = wanted[place]
            self.model.add(job_id, job, is_scheduled=job.available_at == EXPIRES_AT)
        return multiple(*new.values())

    # claiming

    @rule(target=claims, worker=WORKERS, limit=st.integers(1, 3), commits=ENDINGS)
    def claim(self, worker: str, limit: int, *, commits: bool) -> Any:
        """A worker takes jobs."""

        async def claim(db: AsyncSession) -> list[Claim]:
            return await crud.claim_download_jobs(db, worker_id=worker, limit=limit, lease=LEASE)

        expected = self.after(commits=commits).claim(worker, limit)
        return self._claimed(self.run(claim, commits=commits), expected, commits=commits)

    def _claimed(
        self,
        claims: list[Claim],
        expected: list[tuple[str, str, int, int, str]],
        *,
        commits: bool,
    ) -> Any:
        found = [
            (each.job_id, each.track_id, each.attempt, each.max_attempts, each.worker_id)
            for each in claims
        ]
        assert found == expected
        if not commits:
            return multiple()
        tokens = set(map(_token, claims))
        assert not tokens & self.given_out
        self.given_out |= tokens
        return multiple(*claims)

    @rule(
        target=claims,
        endings=st.lists(
            st.tuples(claims, st.sampled_from([COMPLETED, FAILED, PENDING]), RETRIES),
            max_size=4,
            unique_by=lambda ending: _token(ending[0]),
        ),
        worker=WORKERS,
        limit=st.integers(0, 2),
        commits=ENDINGS,
    )
    def exchange(
        self,
        endings: list[tuple[Claim, DownloadJobStatus, dt.timedelta | None]],
        worker: str,
        limit: int,
        *,
        commits: bool,
    ) -> Any:
        """A worker settles jobs and takes others; what it gives back is not among those."""
        settlements = [
            Settlement(claim, outcome, "exchanged", retry_in)
            if outcome is FAILED
            else Settlement(claim, outcome)
            for claim, outcome, retry_in in endings
        ]
        model = self.after(commits=commits)
        expected = model.claim(worker, limit)
        lost = [
            each.claim
            for each in settlements
            if model.settle(each) is None and not model.has_finished(each.claim)
        ]

        async def exchange(db: AsyncSession) -> Any:
            return await crud.exchange_download_jobs(
                db, settlements, worker_id=worker, limit=limit, lease=LEASE
            )

        result = self.run(exchange, commits=commits)
        assert result.lost == lost
        return self._claimed(result.claims, expected, commits=commits)

    @rule(worker=WORKERS)
    def get_claims(self, worker: str) -> None:
        """A worker asks what it holds."""

        async def read(db: AsyncSession) -> list[Claim]:
            return await crud.get_download_claims(db, worker_id=worker)

        held = set(map(_token, self.run(read)))
        assert held == self.model.held_by(worker)

    @rule(picked=claims, commits=ENDINGS)
    def complete(self, picked: Claim, *, commits: bool) -> None:
        """A worker has done a job, or thinks so."""

        async def complete(db: AsyncSession) -> None:
            await crud.complete_download_job(db, picked)

        if self.after(commits=commits).settle(Settlement(picked, COMPLETED)) is None:
            with pytest.raises(LeaseLost):
                self.run(complete)
        else:
            self.run(complete, commits=commits)

    @rule(picked=claims, retry_in=RETRIES, commits=ENDINGS)
    def fail(self, picked: Claim, retry_in: dt.timedelta | None, *, commits: bool) -> None:
        """An attempt has failed."""

        async def fail(db: AsyncSession) -> DownloadJobStatus:
            return await crud.fail_download_job(db, picked, "failed", retry_in=retry_in)

        settlement = Settlement(picked, FAILED, "failed", retry_in)
        became = self.after(commits=commits).settle(settlement)
        if became is None:
            with pytest.raises(LeaseLost):
                self.run(fail)
        else:
            assert self.run(fail, commits=commits) is became

    @rule(picked=lists_of(claims), commits=ENDINGS)
    def release(self, picked: list[Claim], *, commits: bool) -> None:
        """A worker gives jobs back."""

        async def release(db: AsyncSession) -> list[Claim]:
            return await crud.release_download_jobs(db, picked)

        model = self.after(commits=commits)
        lost = [claim for claim in picked if model.settle(Settlement(claim, PENDING)) is None]
        assert self.run(release, commits=commits) == lost

    @rule(picked=lists_of(claims), commits=ENDINGS)
    def renew(self, picked: list[Claim], *, commits: bool) -> None:
        """A worker is alive."""

        async def renew(db: AsyncSession) -> Any:
            return await crud.renew_download_leases(db, picked, lease=2 * LEASE)

        renewal = self.run(renew, commits=commits)
        model = self.after(commits=commits)
        held = [claim for claim in picked if model.holds(claim)]
        for claim in held:
            model.renew(claim)
        stops = [claim for claim in held if model.jobs[claim.job_id].cancel_requested]
        assert list(map(_token, renewal.renewed)) == list(map(_token, held))
        assert list(map(_token, renewal.cancel_requested)) == list(map(_token, stops))
        assert renewal.lost == [
            claim for claim in picked if claim not in held and not model.has_finished(claim)
        ]

    @rule(picked=lists_of(claims), progress=st.sampled_from([0, 0.25, 1]), commits=ENDINGS)
    def report(self, picked: list[Claim], progress: float, *, commits: bool) -> None:
        """A worker tells how far it is."""

        async def report(db: AsyncSession) -> list[Claim]:
            reports = {claim: progress / (1 + place) for place, claim in enumerate(picked)}
            return await crud.report_download_progress(db, reports)

        lost = self.run(report, commits=commits)
        model = self.after(commits=commits)
        assert lost == [claim for claim in picked if not model.holds(claim)]
        for place, claim in enumerate(picked):
            if claim not in lost:
                model.jobs[claim.job_id].progress = progress / (1 + place)

    # time

    @rule(picked=lists_of(claims))
    def leases_end(self, picked: list[Claim]) -> None:
        """A worker is silent for too long."""
        job_ids = [claim.job_id for claim in picked]
        held = JOBS.c.job_id.in_(job_ids) & JOBS.c.lease_expires_at.is_not(None)

        async def expire(db: AsyncSession) -> None:
            await db.execute(update(JOBS).where(held).values(lease_expires_at=EPOCH))

        self.run(expire)
        self.model.expire(job_ids)

    @rule()
    def jobs_become_due(self) -> None:
        """The moment of every scheduled job comes."""
        scheduled = [job_id for job_id, job in self.model.jobs.items() if job.is_scheduled]

        async def pass_by(db: AsyncSession) -> None:
            where = JOBS.c.job_id.in_(scheduled)
            await db.execute(update(JOBS).where(where).values(available_at=EPOCH))

        self.run(pass_by)
        for job_id in scheduled:
            self.model.jobs[job_id].is_scheduled = False

    @rule(commits=ENDINGS)
    def rescue(self, *, commits: bool) -> None:
        """Somebody looks after silent workers."""
        expected = self.after(commits=commits).rescue()
        assert self.run(crud.rescue_expired_download_jobs, commits=commits) == expected

    # managing

    @rule(job_id=jobs, commits=ENDINGS)
    def cancel(self, job_id: str, *, commits: bool) -> None:
        """Somebody does not want a job any more."""

        async def cancel(db: AsyncSession) -> DownloadJobStatus:
            return (await crud.cancel_download_job(db, job_id)).status

        if job_id not in self.model.jobs:
            with pytest.raises(DownloadJobNotFound):
                self.run(cancel)
            return
        model = self.after(commits=commits)
        model.cancel(job_id)
        assert self.run(cancel, commits=commits) is model.jobs[job_id].status

    @rule(commits=ENDINGS)
    def pause(self, *, commits: bool) -> None:
        """The queue stops."""
        self.run(crud.pause_download_queue, commits=commits)
        self.after(commits=commits).is_paused = True

    @rule(commits=ENDINGS)
    def resume(self, *, commits: bool) -> None:
        """The queue goes on."""
        self.run(crud.resume_download_queue, commits=commits)
        self.after(commits=commits).is_paused = False

    @rule(commits=ENDINGS)
    def retry_failed(self, *, commits: bool) -> None:
        """All that failed is tried again."""
        expected = self.after(commits=commits).retry_failed()
        assert self.run(crud.retry_failed_download_jobs, commits=commits) == expected

    @rule(limit=st.integers(1, 3), statuses=st.sets(st.sampled_from(sorted(FINISHED))))
    def prune(self, limit: int, statuses: set[DownloadJobStatus]) -> None:
        """What finished is deleted."""

        async def prune(db: AsyncSession) -> int:
            return await crud.prune_download_jobs(db, older_than=0, limit=limit, statuses=statuses)

        count = len(self.model.jobs)
        deleted = self.run(prune)
        left = self.stored()
        assert deleted == count - len(left)
        self.model.check_pruned(left, statuses, limit)

    @rule(
        job_id=jobs,
        status=STATUSES,
        error=st.sampled_from([None, "set"]),
        progress=st.sampled_from([None, 0.5]),
        commits=ENDINGS,
    )
    def set_status(
        self,
        job_id: str,
        status: DownloadJobStatus,
        error: str | None,
        progress: float | None,
        *,
        commits: bool,
    ) -> None:
        """Somebody who knows no claims overwrites a job."""

        async def set_status(db: AsyncSession) -> None:
            job = DownloadJob(job_id=job_id)
            await crud.update_download_job_status(db, job, status, error, progress)

        if job_id not in self.model.jobs:
            with pytest.raises(DownloadJobNotFound):
                self.run(set_status)
            return
        try:
            self.after(commits=commits).set_status(job_id, status, error, progress)
        except (DownloadJobClaimed, DownloadJobExists) as expected:
            with pytest.raises(type(expected)):
                self.run(set_status)
        else:
            self.run(set_status, commits=commits)

    @rule(begins=st.booleans(), commits=ENDINGS)
    def pick_up(self, *, begins: bool, commits: bool) -> None:
        """Somebody who knows no claims takes the next job, or only looks."""

        async def pick_up(db: AsyncSession) -> str | None:
            job = await crud.get_next_pending_download_job(db)
            if job is None:
                return None
            assert job.status is PENDING
            if begins:
                await crud.update_download_job_status(db, job, IN_PROGRESS)
            return job.job_id

        expected = next(iter(self.model.due()), None)
        assert self.run(pick_up, commits=commits) == expected
        if begins and expected is not None:
            self.after(commits=commits).set_status(expected, IN_PROGRESS, None, None)

    @rule()
    def look(self) -> None:
        """Somebody asks how it goes."""

        async def look(db: AsyncSession) -> tuple[Any, Any]:
            return (
                await crud.get_download_queue_stats(db),
                await crud.get_time_until_next_download_job(db),
            )

        stats, until_next = self.run(look)
        expected = self.model.stats()
        assert (stats.oldest_pending_age is None) is (expected.pending == 0)
        assert stats == type(stats)(
            **{
                **{name: getattr(expected, name) for name in stats.__slots__},
                "oldest_pending_age": stats.oldest_pending_age,
            }
        )
        assert (until_next is None) is (expected.scheduled == 0)

    # what holds after each step

    @invariant()
    def the_table_is_what_the_model_says(self) -> None:
        """Every row, in every column; of times that there is one, or none."""
        stored = self.stored()
        times = {"lease_expires_at", "started_at", "finished_at"}
        assert {
            job_id: {
                name: row[name] is not None if name in times else row[name]
                for name in row
                if name not in {"job_id", "created_at", "available_at"}
            }
            for job_id, row in stored.items()
        } == dict(self.model.rows())
        self.model.take_over_times(stored)
        for job_id, row in stored.items():  # a number is never used again
            assert row["attempt"] >= self.attempts.get(job_id, 0)
            self.attempts[job_id] = row["attempt"]
        active = [
            row["track_id"]
            for row in stored.values()
            if row["is_unique"] and row["status"] in {PENDING, IN_PROGRESS}
        ]
        assert len(active) == len(set(active))


@pytest.fixture
def world(url: str) -> Iterator[World]:
    """A world of this test's own."""
    world = World(url)
    yield world
    world.close()


def test_the_queue_does_what_its_model_does(world: World) -> None:
    """A hundred times forty steps, in every column of every row."""
    machine = type("Machine", (QueueMachine,), {"world": world})
    patient = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=patient)
