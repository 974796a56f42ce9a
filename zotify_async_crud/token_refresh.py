"""A token that has not expired, refreshed once however many ask for it.

No transaction and no pooled connection is open while the token endpoint is asked. Who asks it has a
lease in the token's row, and the others look at the row until it is over. What comes back is stored
unless something newer has been stored since: a login, or the answer to a later lease.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from zotify_async_crud import _validation as check
from zotify_async_crud import schemas
from zotify_async_crud._backoff import Backoff, ExponentialBackoff
from zotify_async_crud._secrets import Hidden
from zotify_async_crud._statements.spotify_tokens import Lease
from zotify_async_crud._transactions import Sessions, transaction
from zotify_async_crud.crud import _token_leases as leases
from zotify_async_crud.crud._token_leases import Found
from zotify_async_crud.errors import (
    DatabaseError,
    InvalidGrant,
    InvalidValue,
    LoginRequired,
    OutcomeUnknown,
    TokenRefreshFailed,
    ZotifyCrudError,
)
from zotify_async_crud.models import SpotifyToken

Refresh: TypeAlias = Callable[[str], Awaitable[Mapping[str, Any]]]
"""Asks the token endpoint, given the refresh token, and returns what that answers.

It raises ``InvalidGrant`` where the endpoint says so, and anything else if asking failed.
"""

DEFAULT_BACKOFF: Final = ExponentialBackoff(first=1.0, longest=300.0, jitter=0.1)

_LOG: Final = logging.getLogger("zotify_async_crud.token_refresh")

_LOOK_AFTER: Final = (0.02, 0.25)
"""Seconds between two looks at a token that another process refreshes: the first, and the most."""

STORE_WITHIN: Final = 60.0
"""Seconds for which a database is asked again and again to store what a refresh answered."""

STORE_AGAIN_AFTER: Final = (0.5, 1.0)
"""Seconds until it is asked again: at least, and at most."""


async def get_valid_spotify_token(
    session_factory: async_sessionmaker[AsyncSession],
    refresh: Refresh,
    *,
    leeway: dt.timedelta | float = 60.0,
    lease: dt.timedelta | float = 30.0,
    backoff: Backoff = DEFAULT_BACKOFF,
) -> SpotifyToken:
    """Return the token, good for at least *leeway* (seconds) by the database's clock.

    Where the stored one is not, *refresh* is called once, whatever number of tasks, processes and
    hosts asks at that moment, and everybody gets the new token. Call it outside of transactions:
    it needs some short ones of its own. The token it returns belongs to no session.

    *refresh* has *lease* seconds. If it takes longer, or its process dies, another caller may try;
    give your HTTP client a shorter timeout. It goes on when its caller is cancelled, because what
    it answers may be the only refresh token that still holds; ``finish_refreshes`` waits for it.
    After a failure nobody tries for as long as *backoff* says, which is called with the number of
    failures. What a new token's ``expires_in`` says counts from before it was asked for.

    Raises:
        LoginRequired: Nobody is logged in, the refresh token holds no more, or what is stored
            cannot be decrypted.
        TokenRefreshFailed: *refresh* failed, for this caller and all who waited with it.
        InvalidValue: Also when a new token does not live as long as *leeway*.
        DatabaseError: The database failed.
    """
    if not isinstance(session_factory, async_sessionmaker):
        raise InvalidValue("session_factory", "Input should be an async_sessionmaker")
    if not callable(refresh):
        raise InvalidValue("refresh", "Input should be a coroutine function")
    if not callable(backoff):
        raise InvalidValue("backoff", "Input should be a function of the number of failures")
    refresher = _Refresher(
        session_factory,
        refresh,
        check.validated("leeway", check.DURATION, leeway),
        check.validated("lease", check.LEASE, lease),
        backoff,
    )
    return await refresher.valid_token()


async def finish_refreshes() -> None:
    """Wait for the refreshes that go on in this event loop though their callers were cancelled.

    A program does so before it ends, which would break them off. None takes longer than its
    *lease*, and ``STORE_WITHIN`` where the database cannot be reached.
    """
    loop = asyncio.get_running_loop()
    while work := [task for task in _WORK if task.get_loop() is loop]:
        await asyncio.wait(work)


@dataclass(frozen=True, slots=True)
class _Refresher:
    sessions: Sessions
    refresh: Refresh
    leeway: dt.timedelta
    lease: dt.timedelta
    backoff: Backoff

    async def valid_token(self) -> SpotifyToken:
        first = await _look(self.sessions)
        if first.lives_for(self.leeway):
            return first.token
        # of this process's callers one looks for all
        async with _turn(self.sessions):
            return await self._new_token(first)

    async def _new_token(self, first: Found) -> SpotifyToken:
        pause, most = _LOOK_AFTER
        while True:
            found = await _look(self.sessions)
            if found.lives_for(self.leeway):
                return found.token
            self._raise_if_in_vain(first, found)
            if found.is_leased:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, most)
            else:
                await self._try(found)

    def _raise_if_in_vain(self, first: Found, found: Found) -> None:
        token = found.token
        if token.needs_login:
            raise LoginRequired("the refresh token holds no more")
        is_same_login = token.login_id == first.token.login_id
        was_refreshed = is_same_login and token.version > first.token.version
        if was_refreshed and token.expires_at - token.updated_at <= self.leeway:
            raise InvalidValue("leeway", "Input should be less than a new token's life")
        has_failed_since = token.lease_version > first.token.lease_version - first.is_leased
        # a holder that is gone leaves its lease behind, and what failed before it
        is_given_back = token.lease_expires_at is None
        failed = token.failures and has_failed_since and is_given_back
        if not found.is_leased and (found.retry_in > 0 or failed):
            raise TokenRefreshFailed(token.failure or "unknown", max(found.retry_in, 0.0))

    async def _try(self, found: Found) -> None:
        lease = await _take(self.sessions, found.token, self.lease)
        if lease is None:  # somebody was quicker
            return
        work = asyncio.create_task(self._refresh(lease, found.token.failures))
        _WORK.add(work)
        work.add_done_callback(_WORK.discard)
        work.add_done_callback(_log_failure)
        # not awaited itself: it goes on when this caller is cancelled
        await asyncio.wait({work})
        work.result()

    async def _refresh(self, lease: Lease, failures: int) -> None:
        """Ask the token endpoint, and record in the database what came of it."""
        outcome = await self._answer(lease)
        if isinstance(outcome, schemas.SpotifyTokenData):
            await _surely(lambda: _store(self.sessions, lease, outcome))
        elif outcome is None:
            _LOG.warning("the refresh token holds no more: log in again")
            await _surely(lambda: _need_login(self.sessions, lease))
        else:
            pause = check.validated("backoff", check.DURATION, self.backoff(failures + 1))
            wait = pause.total_seconds()
            _LOG.warning("the token could not be refreshed: %s; retry in %.1f s", outcome, wait)
            await _surely(lambda: _fail(self.sessions, lease, outcome, wait))

    async def _answer(self, lease: Lease) -> schemas.SpotifyTokenData | str | None:
        """Return what the endpoint answered, why it did not, or None for a grant that is over."""
        asking = asyncio.ensure_future(self._ask(lease))
        # twice, as a process that was paused finds its time over before it has read the answer
        for share in (0.9, 0.1):
            await asyncio.wait({asking}, timeout=share * self.lease.total_seconds())
        if not asking.done():
            asking.cancel()
            return f"it took longer than its lease of {self.lease.total_seconds():g} s"
        return "it was cancelled" if asking.cancelled() else asking.result()

    async def _ask(self, lease: Lease) -> schemas.SpotifyTokenData | str | None:
        try:
            answer = Hidden(await self.refresh(lease.refresh_token))
        except InvalidGrant:
            return None
        except Exception as error:  # noqa: BLE001 - the user's, whose message may hold secrets
            return type(error).__name__
        return _read_answer(answer)


_WORK: Final[set[asyncio.Task[None]]] = set()

_TURNS: Final[
    WeakKeyDictionary[asyncio.AbstractEventLoop, WeakKeyDictionary[Sessions, asyncio.Lock]]
] = WeakKeyDictionary()


def _turn(sessions: Sessions) -> asyncio.Lock:
    turns = _TURNS.setdefault(asyncio.get_running_loop(), WeakKeyDictionary())
    return turns.setdefault(sessions, asyncio.Lock())


def _read_answer(answer: Hidden) -> schemas.SpotifyTokenData | str:
    try:
        return check.token_data(answer)
    except InvalidValue as error:
        return str(error)  # names the field, and shows no value
    except Exception as error:  # noqa: BLE001 - of a mapping of the user's own
        return type(error).__name__


def _log_failure(work: asyncio.Task[None]) -> None:
    if not work.cancelled() and (error := work.exception()):
        # the user's own message may hold secrets
        reason = error if isinstance(error, ZotifyCrudError) else type(error).__name__
        _LOG.error("what came of a refresh of the token could not be stored: %s", reason)


async def _surely(store: Callable[[], Awaitable[None]]) -> None:
    """Call *store* until it succeeds: nobody else has the refresh token that it stores."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STORE_WITHIN
    while True:
        try:
            await store()
        except DatabaseError as error:
            is_passing = error.retry_safe or isinstance(error, OutcomeUnknown)
            if not is_passing or loop.time() > deadline:
                raise
        else:
            return
        await asyncio.sleep(random.uniform(*STORE_AGAIN_AFTER))


async def _look(sessions: Sessions) -> Found:
    found = await _read(sessions)
    if found is None:
        raise LoginRequired("nobody is logged in")
    return found


@transaction
async def _read(sessions: Sessions) -> Found | None:
    async with sessions.begin() as db:
        return await leases.look(db)


@transaction
async def _take(sessions: Sessions, seen: SpotifyToken, lease: dt.timedelta) -> Lease | None:
    async with sessions.begin() as db:
        return await leases.take(db, seen, lease)


@transaction
async def _store(sessions: Sessions, lease: Lease, new: schemas.SpotifyTokenData) -> None:
    async with sessions.begin() as db:
        await leases.store(db, lease, new)


@transaction
async def _fail(sessions: Sessions, lease: Lease, reason: str, retry_in: float) -> None:
    async with sessions.begin() as db:
        await leases.fail(db, lease, reason, retry_in)


@transaction
async def _need_login(sessions: Sessions, lease: Lease) -> None:
    async with sessions.begin() as db:
        await leases.need_login(db, lease)
