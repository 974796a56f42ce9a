"""Wake-ups: who is told, and when, that jobs have become due.

Within a process, whoever watches a database is called right after the transaction has been
committed. Across processes PostgreSQL carries a NOTIFY and SQLite's file a version, which
``watch_others`` turns into the same calls. A NOTIFY goes with the statement that enqueues, or after
the commit: in every transaction it would make the commits wait for each other. All of them are
hints: a job is found without, by polling.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import database_for, translate
from zotify_async_crud._lines import Lines
from zotify_async_crud._tasks import ended
from zotify_async_crud.errors import ZotifyCrudError
from zotify_async_crud.models import DownloadJob

T = TypeVar("T")

Watcher: TypeAlias = Callable[[], None]
"""Called, in any thread, when jobs may have become due."""

_LOG: Final = logging.getLogger(__name__)
_BETWEEN_NOTIFICATIONS: Final = 0.02
"""Seconds; commits that notify wait for each other, and one says as much as a hundred."""

_DUE: Final = "zotify_async_crud.jobs_became_due"
"""Under it a session has whether the transaction has announced all that became due in it."""

_watchers: Final[defaultdict[str, set[Watcher]]] = defaultdict(set)
_notifiers: Final[defaultdict[str, set[_Notifier]]] = defaultdict(set)


def jobs_became_due(db: AsyncSession, *, announced: bool = False) -> None:
    """Tell the watchers of the database, once the transaction of *db* has been committed.

    What was *announced* reaches other processes by itself.
    """
    # Whether anybody watches counts when it is committed, and not yet. Once too often does no harm:
    # a session may have been closed meanwhile, which is told to nobody.
    info = _sync(db).info
    info[_DUE] = announced and info.get(_DUE, True)


def announces(db: AsyncSession) -> bool:
    """Tell whether the next statement of *db*, which makes jobs due, is to carry a notification.

    It then leaves with the commit, and not a round trip and a commit of its own later.
    """
    session = _sync(db)
    # A savepoint that is rolled back takes its notifications along, and a transaction in two phases
    # may have none.
    if not _notifiers or session.in_nested_transaction() or session.twophase:
        return False
    notifiers = list(_notifiers.get(_place(session.get_bind(DownloadJob)), ()))
    return any(notifier.gives_turn() for notifier in notifiers)


def _sync(db: AsyncSession) -> Session:
    return db().sync_session if callable(db) else db.sync_session


def _tell(session: Session) -> None:
    # a released savepoint is no commit yet
    if session.in_nested_transaction() or _DUE not in session.info:
        return
    announced = session.info.pop(_DUE)
    place = _place(session.get_bind(DownloadJob))
    for watcher in list(_watchers.get(place, ())):
        watcher()
    for notifier in () if announced else list(_notifiers.get(place, ())):
        notifier.notice()


def _forget(session: Session) -> None:
    # a savepoint that is rolled back leaves what came before it
    if not session.in_nested_transaction():
        session.info.pop(_DUE, None)


def watching(
    bind: Engine | Connection, watcher: Watcher
) -> contextlib.AbstractContextManager[None]:
    """Let *watcher* be called after commits in this process, as long as the block runs."""
    return _told(_watchers, bind, watcher)


@contextlib.contextmanager
def _told(registry: defaultdict[str, set[T]], bind: Engine | Connection, who: T) -> Iterator[None]:
    """Have *who* among those who are told of commits, as long as the block runs."""
    if not event.contains(Session, "after_commit", _tell):
        event.listen(Session, "after_commit", _tell)
        event.listen(Session, "after_rollback", _forget)
    place = _place(bind)
    registry[place].add(who)
    try:
        yield
    finally:
        registry[place].discard(who)
        if not registry[place]:
            del registry[place]


@contextlib.asynccontextmanager
async def notifying(engine: AsyncEngine) -> AsyncIterator[None]:
    """Tell worker pools in other processes of jobs that this process commits, while it is open.

    A web service opens it for as long as it lives. Without it, workers elsewhere find the jobs when
    they poll. The first notification leaves with the commit, and what follows at once is told of
    together: 50 times in a second at most, so that commits need not wait for each other.
    """
    notification = database_for(engine.dialect).notification
    if notification is None:
        yield
        return
    notifier = _Notifier(engine, notification)
    with _told(_notifiers, engine.sync_engine, notifier):
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
    """Sends the notifications that no transaction carries, on a connection kept for them."""

    def __init__(self, engine: AsyncEngine, notification: Executable) -> None:
        self._lines, self._notification = Lines(engine), notification
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._next_at = time.monotonic()
        self._succeeds = False

    def notice(self) -> None:
        """Take note of a change, in any thread."""
        if not self._changed.is_set():  # or what is to be sent tells of this one, too
            self._loop.call_soon_threadsafe(self._changed.set)

    def gives_turn(self) -> bool:
        """Tell, in any thread, whether another may send the next notification, as it does then.

        It may once the notifier's own have shown that they succeed: no enqueuing is to fail by one.
        """
        is_time = time.monotonic() >= self._next_at and not self._changed.is_set()
        if is_time and self._succeeds:
            self._take_turn()
        return is_time and self._succeeds

    def _take_turn(self) -> None:
        self._next_at = time.monotonic() + _BETWEEN_NOTIFICATIONS

    async def send(self) -> None:
        """Send what is to be sent, as it comes."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(self._next_at - time.monotonic())
            self._take_turn()
            await self._notify()

    async def close(self) -> None:
        """Send what is left, perhaps since the sending was cancelled in the middle of it."""
        if self._changed.is_set():
            await self._notify()
        await self._lines.close()

    async def _notify(self) -> None:
        self._changed.clear()
        try:
            self._succeeds = await _notify(self._lines, self._notification)
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


async def _notify(lines: Lines, notification: Executable) -> bool:
    try:
        async with lines.session() as db:
            await db.execute(notification)
    except Exception as error:  # noqa: BLE001 - the pools poll, whatever went wrong
        _LOG.debug("could not notify other processes: %r", error)
        return False
    return True


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
