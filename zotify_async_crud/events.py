"""Wake-ups: who is told, and when, that jobs have become due.

Within a process, whoever watches a database is called right after the transaction has been
committed. Across processes PostgreSQL carries a NOTIFY and SQLite's file a version, which
``watch_others`` turns into the same calls. All of them are hints: a job is found without, by
polling.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, TypeAlias

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import database_for, translate
from zotify_async_crud._lines import Lines
from zotify_async_crud._tasks import ended
from zotify_async_crud.errors import ZotifyCrudError
from zotify_async_crud.models import DownloadJob

Watcher: TypeAlias = Callable[[], None]
"""Called, in any thread, when jobs may have become due."""

_LOG: Final = logging.getLogger(__name__)
_BETWEEN_NOTIFICATIONS: Final = 0.02
"""Seconds; each is a commit of its own, and one says as much as a hundred."""

_DUE: Final = "zotify_async_crud.jobs_became_due"
_watchers: Final[defaultdict[str, set[Watcher]]] = defaultdict(set)


def jobs_became_due(db: AsyncSession) -> None:
    """Tell the watchers of the database, once the transaction of *db* has been committed."""
    session = db().sync_session if callable(db) else db.sync_session
    # whether anybody watches counts when it is committed, and not yet
    session.info[_DUE] = True


def _tell_watchers(session: Session) -> None:
    # a released savepoint is no commit yet
    if not session.in_nested_transaction() and session.info.pop(_DUE, False):
        wake_watchers(session.get_bind(DownloadJob))


def _forget(session: Session) -> None:
    # a savepoint that is rolled back leaves what came before it
    if not session.in_nested_transaction():
        session.info.pop(_DUE, None)


def wake_watchers(bind: Engine | Connection) -> None:
    """Call whoever in this process watches the database that *bind* is connected to."""
    for watcher in list(_watchers.get(_place(bind), ())):
        watcher()


@contextlib.contextmanager
def watching(bind: Engine | Connection, watcher: Watcher) -> Iterator[None]:
    """Let *watcher* be called after commits in this process, as long as the block runs."""
    if not event.contains(Session, "after_commit", _tell_watchers):
        event.listen(Session, "after_commit", _tell_watchers)
        event.listen(Session, "after_rollback", _forget)
    place = _place(bind)
    _watchers[place].add(watcher)
    try:
        yield
    finally:
        _watchers[place].discard(watcher)
        if not _watchers[place]:
            del _watchers[place]


@contextlib.asynccontextmanager
async def notifying(engine: AsyncEngine) -> AsyncIterator[None]:
    """Tell worker pools in other processes of jobs that this process commits, while it is open.

    A web service opens it for as long as it lives. Without it, workers elsewhere find the jobs when
    they poll. Notifications follow the commits, at most 50 in a second, and never hold up one.
    """
    notification = database_for(engine.dialect).notification
    if notification is None:
        yield
        return
    notifier = _Notifier(engine, notification)
    with watching(engine.sync_engine, notifier.notice):
        sending = asyncio.create_task(notifier.send(), name="zotify-notify")
        try:
            yield
        finally:
            sending.cancel()
            try:
                await ended(sending)
            finally:
                await notifier.close()


class _Notifier:
    """Sends a notification after each change, on a connection that is kept for them."""

    def __init__(self, engine: AsyncEngine, notification: Executable) -> None:
        self._lines, self._notification = Lines(engine), notification
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def notice(self) -> None:
        """Take note of a change, in any thread."""
        self._loop.call_soon_threadsafe(self._changed.set)

    async def send(self) -> None:
        """Send what is to be sent, as it comes."""
        while True:
            await self._changed.wait()
            await self._notify()
            await asyncio.sleep(_BETWEEN_NOTIFICATIONS)

    async def close(self) -> None:
        """Send what is left, perhaps since the sending was cancelled in the middle of it."""
        if self._changed.is_set():
            await self._notify()
        await self._lines.close()

    async def _notify(self) -> None:
        self._changed.clear()
        try:
            await _notify(self._lines, self._notification)
        except asyncio.CancelledError:
            self._changed.set()
            raise


async def notify(engine: AsyncEngine) -> None:
    """Tell worker pools in other processes that jobs are due; a failure is logged, and no error."""
    notification = database_for(engine.dialect).notification
    if notification is not None:
        lines = Lines(engine)
        await _notify(lines, notification)
        await lines.close()


async def _notify(lines: Lines, notification: Executable) -> None:
    try:
        async with lines.session() as db:
            await db.execute(notification)
    except Exception as error:  # noqa: BLE001 - the pools poll, whatever went wrong
        _LOG.debug("could not notify other processes: %r", error)


async def watch_others(engine: AsyncEngine, watcher: Watcher, *, interval: float) -> None:
    """Call *watcher* when another process may have made jobs due, until the connection is lost.

    Raises:
        DatabaseError: The connection is lost; call again, which polls once.
    """
    try:
        await database_for(engine.dialect).watch_others(engine, watcher, interval)
    except ZotifyCrudError:
        raise
    except Exception as error:
        failure = translate(error)
        if failure is None:
            raise
        raise failure from error


def _place(bind: Engine | Connection) -> str:
    url = bind.engine.url
    return f"{url.get_backend_name()}://{url.host}:{url.port}/{url.database}"
