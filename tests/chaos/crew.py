"""Worker processes that are killed and paused, and what must be true of what they have done."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Self

from sqlalchemy import select, text

from tests.support.factories import Sessions
from zotify_async_crud import crud, database, schemas
from zotify_async_crud.errors import DatabaseError
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

REPOSITORY: Final = Path(__file__).parents[2]
SCALE: Final = int(os.environ.get("ZOTIFY_CHAOS_SCALE", "1"))
"""How many times more is broken than in an ordinary run."""

_PATIENCE: Final = 120.0
_CREATE: Final = text("CREATE TABLE events (job_id TEXT, attempt INTEGER, kind TEXT)")


class Crew:
    """Worker processes on one database; what dies is replaced."""

    def __init__(self, url: str, *, size: int, unfenced: bool = False) -> None:
        self._url, self._size, self._unfenced = url, size, unfenced
        self._names: dict[int, str] = {}
        self._engine = database.create_engine(url, read_only=True)
        self._readers = database.create_session_factory(self._engine)
        self.processes: list[subprocess.Popen[bytes]] = []

    async def __aenter__(self) -> Self:
        self.replace_the_dead()
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self.processes:
            _bury(process)
        await self._engine.dispose()

    def replace_the_dead(self) -> None:
        """Start processes until there are as many as there should be."""
        for process in [dead for dead in self.processes if dead.poll() is not None]:
            _bury(process)
            self.processes.remove(process)
        while len(self.processes) < self._size:
            self.processes.append(self._start())

    def _start(self) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        if self._unfenced:
            environment["UNFENCED"] = "1"
        name = f"worker-{len(self._names)}"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker", self._url, name],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._names[process.pid] = name
        return process

    async def ready(self) -> None:
        """Wait until all processes work."""
        for process in self.processes:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"

    async def kill_one(self, keep_busy: Callable[[], Awaitable[None]]) -> None:
        """Kill a process that has jobs, as the kernel does, and start another."""
        while True:
            await keep_busy()
            victim = random.choice(self.processes)
            victim.send_signal(signal.SIGSTOP)  # or its jobs could be done by then
            if await self._has_jobs(victim):
                break
            victim.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.05)
        _bury(victim)
        self.replace_the_dead()

    async def pause(
        self, count: int, seconds: float, keep_busy: Callable[[], Awaitable[None]]
    ) -> None:
        """Let processes that have jobs do nothing for some time, not even notice."""
        while True:
            await keep_busy()
            victims = random.sample(self.processes, count)
            for victim in victims:
                victim.send_signal(signal.SIGSTOP)
            found = all([await self._has_jobs(victim) for victim in victims])
            if found:
                await asyncio.sleep(seconds)
            for victim in victims:
                victim.send_signal(signal.SIGCONT)
            if found:
                return

    async def _has_jobs(self, process: subprocess.Popen[bytes]) -> bool:
        async with self._readers() as db:  # whoever was stopped may hold the lock of writers
            return bool(await crud.get_download_claims(db, worker_id=self._names[process.pid]))

    async def end(self) -> None:
        """Ask all processes to stop, and wait until they have."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            assert await asyncio.to_thread(process.wait, _PATIENCE) == 0


def _bury(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


class Ledger:
    """The jobs that were enqueued, and the events that workers have written."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self.job_ids: list[str] = []

    async def open(self) -> None:
        """Create the table of events."""
        async with self._sessions.begin() as db:
            await db.execute(text("DROP TABLE IF EXISTS events"))
            await db.execute(_CREATE)

    async def close(self) -> None:
        """Drop the table of events."""
        async with self._sessions.begin() as db:
            await db.execute(text("DROP TABLE events"))

    async def enqueue(self, count: int = 1, track_id: str = "t", max_attempts: int = 1000) -> None:
        """Enqueue jobs that survive every fault, unless *max_attempts* says otherwise."""
        new = schemas.DownloadJobCreate(track_id=track_id, max_attempts=max_attempts)
        async with self._sessions.begin() as db:
            self.job_ids += await crud.create_download_jobs(db, [new] * count)

    async def keep_busy(self, jobs: int = 200) -> None:
        """Enqueue so many jobs if fewer are left."""
        async with self._sessions.begin() as db:
            stats = await crud.get_download_queue_stats(db)
        if stats.pending < jobs // 2:
            await self.enqueue(jobs)

    async def until_finished(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until no job is pending or in progress."""
        async with asyncio.timeout(_PATIENCE):
            while await self._unfinished():
                meanwhile()
                await asyncio.sleep(0.05)

    async def _unfinished(self) -> bool:
        try:
            async with self._sessions.begin() as db:
                stats = await crud.get_download_queue_stats(db)
        except DatabaseError:
            return True
        return bool(stats.pending + stats.scheduled + stats.in_progress)

    async def statuses(self) -> Counter[DownloadJobStatus]:
        """Count the jobs by their statuses."""
        async with self._sessions() as db:
            return Counter((await db.scalars(select(DownloadJob.status))).all())

    async def check(self) -> None:
        """Nothing is lost, nothing was held twice, and nothing was written by a stale claim."""
        async with self._sessions() as db:
            rows = (await db.execute(text("SELECT job_id, attempt, kind FROM events"))).all()
            jobs = {job.job_id: job for job in await db.scalars(select(DownloadJob))}
        held = Counter((row.job_id, row.attempt) for row in rows if row.kind == "begun")
        done = Counter(row.job_id for row in rows if row.kind == "done")
        assert jobs.keys() == set(self.job_ids), "a job was lost or made up"
        assert max(held.values()) == 1, "two workers held one attempt"
        completed = {i for i, job in jobs.items() if job.status is DownloadJobStatus.COMPLETED}
        assert done.keys() == completed, "an end was recorded without its job, or not at all"
        assert set(done.values()) == {1}, "a job was completed twice"
        last = {row.job_id: row.attempt for row in rows if row.kind == "done"}
        assert all(jobs[job_id].attempt == attempt for job_id, attempt in last.items()), (
            "a job was claimed again after its end"
        )
