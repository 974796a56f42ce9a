"""Enqueues the jobs of many callers in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
import copy
from types import TracebackType
from typing import Final, Self, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from zotify_async_crud import _validation as check
from zotify_async_crud import crud, events, schemas
from zotify_async_crud._dialects import database_for, had_connected
from zotify_async_crud._lines import Lines
from zotify_async_crud.database import translated_errors
from zotify_async_crud.errors import (
    DatabaseUnavailable,
    EnqueuerClosed,
    OutcomeUnknown,
    ZotifyCrudError,
)

_MOST_AT_ONCE: Final = 1_000

_CONNECTION_LOST: Final = ("08", "57P")
"""How the codes begin of errors with which a connection ends."""

_HandedIn: TypeAlias = tuple[schemas.DownloadJobCreate, asyncio.Future[str]]


class Enqueuer:
    """Enqueues jobs that concurrent callers hand in, as many as there are in each transaction.

    ``async with Enqueuer(session_factory) as enqueuer:`` in the lifespan of a web service, and
    ``await enqueuer.enqueue(job)`` in its handlers. While one transaction is committed, the next
    callers' jobs gather, so that nobody waits for a timer. Use ``crud.create_download_job`` where
    a job belongs to the caller's own transaction.

    On leaving the block what was handed in is written. Worker pools are told after each commit, in
    this process and in others.
    """

    def __init__(self, session_factory: async_sessionmaker[AsyncSession]) -> None:
        self._sessions = session_factory
        self._waiting: list[_HandedIn] = []
        self._handed_in = asyncio.Event()
        self._open = False
        self._lines: Lines | None = None
        self._resources = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        bind = self._sessions().bind
        if isinstance(bind, AsyncEngine):
            await self._resources.enter_async_context(events.notifying(bind))
            if database_for(bind.dialect).writes_together:
                self._lines = Lines(bind)
                self._resources.push_async_callback(self._lines.close)
        self._open = True
        self._writing = asyncio.create_task(self._write(), name="zotify-enqueuer")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        self._handed_in.set()
        try:
            await self._writing
        finally:
            for _, committed in self._waiting:  # the writing was cancelled
                committed.cancel()
            self._waiting.clear()
            await self._resources.aclose()

    async def enqueue(self, job: schemas.DownloadJobCreate) -> str:
        """Enqueue a job and return its id once it is committed.

        A unique job whose track has one that is pending or in progress returns that one's id. A
        caller that is cancelled while it waits may have enqueued its job nevertheless.

        Raises:
            EnqueuerClosed: The enqueuer's block has not been entered, or is being left.
            InvalidValue: *job* is no valid ``DownloadJobCreate``.
            DatabaseError: The transaction failed, and with it the jobs of all callers in it.
        """
        new = check.job(job)
        if not self._open:
            raise EnqueuerClosed
        committed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((new, committed))
        self._handed_in.set()
        return await committed

    async def _write(self) -> None:
        while self._open or self._waiting:
            await self._handed_in.wait()
            self._handed_in.clear()
            while self._waiting:
                batch = self._waiting[:_MOST_AT_ONCE]
                del self._waiting[:_MOST_AT_ONCE]
                await self._commit(batch)

    async def _commit(self, batch: list[_HandedIn]) -> None:
        try:
            job_ids = await self._insert([job for job, _ in batch])
        except asyncio.CancelledError:
            for _, committed in batch:
                committed.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it is the callers'
            for _, committed in batch:
                if not committed.done():
                    committed.set_exception(_of_its_own(error))
        else:
            for (_, committed), job_id in zip(batch, job_ids, strict=True):
                if not committed.done():
                    committed.set_result(job_id)

    async def _insert(self, jobs: list[schemas.DownloadJobCreate]) -> list[str]:
        # a single statement needs no transaction around it
        if self._lines is None or any(job.unique for job in jobs):
            with translated_errors():
                async with self._sessions.begin() as db:
                    return await crud.create_download_jobs(db, jobs)
        try:
            with translated_errors():
                async with self._lines.session() as db:
                    return await crud.create_download_jobs(db, jobs)
        except DatabaseUnavailable as error:
            # a server that goes on has said what became of the statement
            is_told = error.code is not None and not error.code.startswith(_CONNECTION_LOST)
            if is_told or not had_connected(error.__cause__ or error):
                raise
            raise OutcomeUnknown(error.detail, error.code) from error


def _of_its_own(error: Exception) -> Exception:
    """Return the error for one of several callers, who would all add to its traceback."""
    if not isinstance(error, ZotifyCrudError):
        return error
    twin = copy.copy(error)
    twin.__cause__ = error
    return twin
