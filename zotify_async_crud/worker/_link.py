"""What a pool asks of the database, each in a transaction of its own."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from zotify_async_crud import crud
from zotify_async_crud._dialects import Database, database_for
from zotify_async_crud._lines import Lines
from zotify_async_crud.database import translated_errors
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import Claim, Exchange, Renewal, Settlement


class Link:
    """The queue, as one worker sees it."""

    def __init__(
        self, sessions: async_sessionmaker[AsyncSession], worker_id: str, lease: dt.timedelta
    ) -> None:
        self._sessions, self._worker_id, self._lease = sessions, worker_id, lease
        self.bind: Engine | Connection = sessions().get_bind(DownloadJob)
        self.database: Database = database_for(self.bind.dialect)
        # on one connection, its loops have to take turns
        self._turn = contextlib.nullcontext() if self.engine else asyncio.Lock()
        self._lines = Lines(self.engine) if self.engine and self.database.writes_together else None

    @property
    def engine(self) -> AsyncEngine | None:
        """The engine, or None where the sessions are bound to a connection."""
        return AsyncEngine(self.bind) if isinstance(self.bind, Engine) else None

    @property
    def looks_by_itself(self) -> bool:
        """Whether ``events.watch_others`` looks for jobs of other processes."""
        return self.engine is not None and self.database.looks_for_others(self.engine.url)

    @property
    def may_overlap(self) -> bool:
        """Whether exchanges can be under way side by side, and reach the database as sent."""
        return self._lines is not None and not self._lines.is_connecting

    def _exchanging(self) -> contextlib.AbstractAsyncContextManager[AsyncSession]:
        """Return a session whose statements need no transaction around them, if there are such."""
        return self._lines.session() if self._lines else self._sessions.begin()

    async def close(self) -> None:
        """Close the connections that were kept."""
        if self._lines:
            await self._lines.close()

    async def exchange(self, settlements: Sequence[Settlement], limit: int) -> Exchange:
        """Write what is over, and claim what is next."""
        with translated_errors():
            async with self._turn, self._exchanging() as db:
                return await crud.exchange_download_jobs(
                    db, settlements, worker_id=self._worker_id, limit=limit, lease=self._lease
                )

    async def renew(self, claims: Sequence[Claim], progress: Mapping[Claim, float]) -> Renewal:
        """Prolong the leases of *claims*, and write the progress of some."""
        with translated_errors():
            async with self._turn, self._sessions.begin() as db:
                await crud.report_download_progress(db, progress)
                return await crud.renew_download_leases(db, claims, lease=self._lease)

    async def rescue(self) -> None:
        """Take the jobs of workers that are gone."""
        with translated_errors():
            async with self._turn, self._sessions.begin() as db:
                await crud.rescue_expired_download_jobs(db)

    async def claimed(self) -> list[Claim]:
        """Return what this worker holds, whether it knows of it or not."""
        with translated_errors():
            async with self._turn, self._sessions.begin() as db:
                return await crud.get_download_claims(db, worker_id=self._worker_id)

    async def time_until_next(self) -> dt.timedelta | None:
        """Return how long it is until another job becomes due."""
        with translated_errors():
            async with self._turn, self._sessions.begin() as db:
                return await crud.get_time_until_next_download_job(db)

    async def is_drained(self) -> bool:
        """Return whether no job is due, or none will be handed out."""
        with translated_errors():
            async with self._turn, self._sessions.begin() as db:
                stats = await crud.get_download_queue_stats(db)
        return stats.paused or not stats.pending
