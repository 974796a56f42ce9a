"""A stand-in for the Spotify login: made-up tokens that live for a moment."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import select

from zotify_async_crud import crud
from zotify_async_crud._transactions import Sessions, transaction
from zotify_async_crud.errors import InvalidValue, LoginRequired
from zotify_async_crud.models import SpotifyToken
from zotify_async_crud.token_refresh import get_valid_spotify_token

SCOPE: Final = "zotify-demo"
"""Tells the stand-in from somebody's login."""

LIFETIME: Final = dt.timedelta(seconds=0.5)
"""Spotify's live for an hour, too long to see one refreshed."""


@transaction
async def check_nobody_is_logged_in(sessions: Sessions) -> None:
    """Make sure that there is no token that a stand-in would replace.

    Raises:
        InvalidValue: There is one.
    """
    async with sessions.begin() as db:
        scopes = set(await db.scalars(select(SpotifyToken.scope)))
    if scopes - {SCOPE}:
        reason = "Input should be a database without a login, which the demo would replace"
        raise InvalidValue("database_url", reason)


async def keep_fresh(sessions: Sessions, work: asyncio.Future[Any]) -> int:
    """Refresh the token each time it expires, until *work* is done; return how often that was."""
    refreshes = 0

    async def refresh(_: str) -> Mapping[str, Any]:
        nonlocal refreshes
        refreshes += 1
        return _answer()

    while True:
        try:
            token = await get_valid_spotify_token(sessions, refresh, leeway=0)
        except LoginRequired:  # nobody is, or under another run's key
            token = await _log_in(sessions)
        lifetime = token.expires_at - dt.datetime.now(dt.UTC)
        done, _ = await asyncio.wait({work}, timeout=lifetime.total_seconds())
        if done:
            return refreshes


@transaction
async def _log_in(sessions: Sessions) -> SpotifyToken:
    login = {**_answer(), "refresh_token": f"stand-in-{secrets.token_urlsafe()}"}
    async with sessions.begin() as db:
        return await crud.create_or_update_spotify_token(db, login)


def _answer() -> dict[str, object]:
    """Answer as a token endpoint does that lets the refresh token stay valid: without one."""
    return {
        "access_token": f"stand-in-{secrets.token_urlsafe()}",
        "expires_in": LIFETIME,
        "scope": SCOPE,
    }
