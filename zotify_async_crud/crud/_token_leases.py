"""Who refreshes the token: one at a time, by a lease, and without a transaction meanwhile."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud._statements import spotify_tokens as sql
from zotify_async_crud._statements.spotify_tokens import Lease
from zotify_async_crud.crud._session import execute, secret_row
from zotify_async_crud.crud.spotify_tokens import warn_of_clear_text
from zotify_async_crud.models import SpotifyToken
from zotify_async_crud.schemas import SpotifyTokenData


class Found(NamedTuple):
    """The token, and when by the database's clock it was read."""

    token: SpotifyToken
    at: dt.datetime

    def lives_for(self, time: dt.timedelta) -> bool:
        """Tell whether the token is good for longer than *time*."""
        return self.token.expires_at - self.at > time

    @property
    def is_leased(self) -> bool:
        """Whether somebody refreshes it."""
        return self.token.lease_expires_at is not None and self.token.lease_expires_at > self.at

    @property
    def retry_in(self) -> float:
        """Seconds until it may be refreshed after a failure; 0 or less if it may."""
        retry_at = self.token.retry_at
        return 0.0 if retry_at is None else (retry_at - self.at).total_seconds()


async def look(db: AsyncSession) -> Found | None:
    """Return the token, which does not belong to the session any more."""
    row = await secret_row(db, sql.look())
    if row is None:
        return None
    token, now = tuple(row)
    db.expunge(token)
    return Found(token, now)


async def take(db: AsyncSession, seen: SpotifyToken, lease: dt.timedelta) -> Lease | None:
    """Return the lease, or None if the token was written, leased or given up since it was seen."""
    warn_of_clear_text(db)  # now: what is refreshed must be stored, even where warnings are errors
    row = await secret_row(db, sql.take_lease(seen, lease))
    if row is None:
        return None
    version, taken_at = row
    return Lease(seen.login_id, version, taken_at, seen.refresh_token)


async def store(db: AsyncSession, lease: Lease, new: SpotifyTokenData) -> None:
    """Store what a refresh answered, unless something newer is stored; to repeat it is safe."""
    await execute(db, sql.refresh(lease, new), secret=True)


async def fail(db: AsyncSession, lease: Lease, reason: str, retry_in: float) -> None:
    """Record that the refresh failed."""
    wait = dt.timedelta(seconds=retry_in)
    await execute(db, sql.fail(lease, reason, wait), secret=True)


async def need_login(db: AsyncSession, lease: Lease) -> None:
    """Record that the refresh token holds no more."""
    await execute(db, sql.need_login(lease), secret=True)
