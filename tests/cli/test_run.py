"""The demo within this process, where chance and other people's jobs are ours."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.cli.programs import small_export
from tests.cli.recorder import Recorder, run_demo
from tests.support.factories import Sessions, add_job, stored_job
from tests.support.faults import is_sqlite, until_waiting_for_lock
from zotify_async_crud import crud, schemas
from zotify_async_crud.demo import Stage, _downloads, _steps
from zotify_async_crud.errors import SchemaMismatch
from zotify_async_crud.schemas import DownloadJobStatus
from zotify_async_crud.worker import JobContext

TRACKS = 12


def fail_attempts(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the first *count* attempts at each job fail, and be tried again at once."""

    async def download(job: JobContext) -> None:
        if job.attempt <= count:
            raise _downloads.DownloadFailed

    monkeypatch.setattr(_downloads, "stand_in_handler", lambda _: download)
    monkeypatch.setattr(_downloads, "BACKOFF", lambda _: 0.0)
    monkeypatch.setattr(_downloads, "LEASE", 600.0)  # no attempt ends by itself


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export of 12 tracks."""
    return small_export(tmp_path, TRACKS)


async def test_it_reports_each_stage_and_each_failure(
    url: str, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed is tried again, and counts once as done."""
    fail_attempts(monkeypatch, 2)
    recorder = Recorder()
    summary = await run_demo(export, url, recorder)
    assert recorder.shown[Stage.SYNC] == [(1, 1, 0)]
    assert recorder.shown[Stage.ENQUEUE] == [(TRACKS, TRACKS, 0)]
    assert recorder.last(Stage.DOWNLOAD) == (TRACKS, TRACKS, 2 * TRACKS)
    assert recorder.shown[Stage.DOWNLOAD] == sorted(recorder.shown[Stage.DOWNLOAD])
    assert recorder.said == []
    assert summary.failed_attempts == 2 * TRACKS
    assert (summary.playlists, summary.tracks, summary.skipped) == (1, TRACKS, 1)
    assert (summary.downloads.by_worker, summary.jobs.left) == ((TRACKS,), 0)
    assert summary.downloads.rate == pytest.approx(TRACKS / summary.downloads.seconds)


async def test_jobs_that_used_up_their_attempts_are_given_back(
    url: str, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job has five attempts by itself."""
    fail_attempts(monkeypatch, 6)
    summary = await run_demo(export, url)
    assert summary.failed_attempts == 6 * TRACKS
    assert summary.jobs.completed == TRACKS


async def test_it_gives_up_after_some_rounds(
    url: str, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What always fails is told as what is left."""
    fail_attempts(monkeypatch, 1_000)
    monkeypatch.setattr(_downloads, "ROUNDS", 2)
    summary = await run_demo(export, url)
    assert summary.failed_attempts == 6 * TRACKS
    assert summary.jobs.left == summary.jobs.by_status[DownloadJobStatus.FAILED] == TRACKS
    assert summary.downloads.completed == 0


async def test_several_processes_share_the_queue(url: str, export: Path) -> None:
    """The summary tells what each of them did."""
    recorder = Recorder()
    summary = await run_demo(export, url, recorder, processes=2)
    assert recorder.said == []
    assert recorder.last(Stage.DOWNLOAD)[:2] == (TRACKS, TRACKS)
    assert len(summary.downloads.by_worker) == 2
    assert sum(summary.downloads.by_worker) == summary.jobs.completed == TRACKS


async def test_several_runs_share_a_database(url: str, export: Path, sessions: Sessions) -> None:
    """Together they download each track once, and each ends when all is done."""
    first, second = await asyncio.gather(run_demo(export, url), run_demo(export, url))
    assert first.jobs.left == second.jobs.left == 0
    assert first.downloads.completed + second.downloads.completed == TRACKS
    async with sessions.begin() as db:
        jobs = await crud.get_all_download_jobs(db)
    assert set(Counter(job.track_id for job in jobs).values()) == {1}


async def test_a_track_that_another_run_is_just_enqueuing_gets_no_second_job(
    url: str, engine: AsyncEngine, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if its job is completed at once, so that a unique one could follow it."""
    begun, go_on, create_jobs = asyncio.Event(), asyncio.Event(), crud.create_download_jobs

    async def create_and_complete(
        db: AsyncSession, jobs: list[schemas.DownloadJobCreate]
    ) -> list[str]:
        begun.set()
        await go_on.wait()
        job_ids = await create_jobs(db, jobs)
        for job in await crud.get_all_download_jobs(db):
            await crud.update_download_job_status(db, job, DownloadJobStatus.COMPLETED)
        return job_ids

    monkeypatch.setattr(crud, "create_download_jobs", create_and_complete)
    async with sessions.begin() as db:
        await crud.get_or_create_track(db, "t", "Song")
    first = asyncio.create_task(_steps.enqueue(sessions, ["t"], {"t": "Song"}))
    await begun.wait()
    second = asyncio.create_task(_steps.enqueue(sessions, ["t"], {"t": "Song"}))
    if not is_sqlite(engine):
        await until_waiting_for_lock(url)
    go_on.set()
    await asyncio.gather(first, second)
    async with sessions.begin() as db:
        assert len(await crud.get_all_download_jobs(db)) == 1


async def test_the_jobs_of_a_dead_worker_are_waited_for(
    url: str, export: Path, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come back when its leases are over."""
    monkeypatch.setattr(_downloads, "FAILURE_RATE", 0.0)  # only the dead worker fails
    job = await add_job(sessions, "t")
    async with sessions.begin() as db:
        await crud.claim_download_jobs(db, worker_id="dead", lease=1.0)
    summary = await run_demo(export, url)
    assert summary.jobs.completed == TRACKS + 1
    assert summary.failed_attempts >= 1
    found = await stored_job(sessions, job.job_id)
    assert (found.status, found.attempt) == (DownloadJobStatus.COMPLETED, 2)


async def test_jobs_in_progress_without_a_lease_are_left_alone(
    url: str, export: Path, sessions: Sessions
) -> None:
    """Whoever picked them up may be at work; they keep no run from ending."""
    job = await add_job(sessions, "stray", status=DownloadJobStatus.IN_PROGRESS)
    recorder = Recorder()
    summary = await run_demo(export, url, recorder)
    assert recorder.said == ["Jobs in progress without a lease, left to others: 1"]
    assert (summary.jobs.left, summary.jobs.foreign, summary.jobs.completed) == (0, 1, TRACKS)
    assert (await stored_job(sessions, job.job_id)).status is DownloadJobStatus.IN_PROGRESS


async def test_what_became_of_a_track_before_decides(
    url: str, export: Path, sessions: Sessions
) -> None:
    """A download that failed is tried again; one that was completed or cancelled stays so."""
    became = (DownloadJobStatus.FAILED, DownloadJobStatus.COMPLETED, DownloadJobStatus.CANCELLED)
    for number, status in enumerate(became):
        await add_job(sessions, f"{number:022}", status=status)
    recorder = Recorder()
    summary = await run_demo(export, url, recorder)
    assert recorder.last(Stage.ENQUEUE) == (TRACKS - 3, TRACKS - 3, 0)
    assert recorder.last(Stage.DOWNLOAD)[:2] == (TRACKS - 2, TRACKS - 2)
    assert summary.jobs.by_status[DownloadJobStatus.CANCELLED] == 1
    assert (summary.jobs.completed, summary.jobs.left) == (TRACKS - 1, 0)


async def test_a_paused_queue_is_told_and_waited_for(
    url: str, export: Path, sessions: Sessions
) -> None:
    """Nothing is downloaded meanwhile."""
    async with sessions.begin() as db:
        await crud.pause_download_queue(db)
    recorder = Recorder()
    running = asyncio.create_task(run_demo(export, url, recorder))
    await recorder.downloading.wait()
    assert recorder.said == ["The queue is paused: downloads wait until it is resumed"]
    assert recorder.last(Stage.DOWNLOAD) == (0, TRACKS, 0)
    async with sessions.begin() as db:
        await crud.resume_download_queue(db)
    assert (await running).jobs.completed == TRACKS


async def test_an_error_comes_out_as_it_is(
    url: str, export: Path, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in a group, and the workers stop because of it."""

    async def fail(*_: object) -> None:
        raise SchemaMismatch("no such table")

    monkeypatch.setattr(_steps, "retry_failed", fail)
    with pytest.raises(SchemaMismatch):
        await run_demo(export, url)
