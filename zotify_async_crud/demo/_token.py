"""A stand-in for the Spotify login: made-up tokens that live for a moment."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from typing import Any, Final

from zotify_async_crud import crud
from zotify_async_crud._transactions import Sessions, transaction

LIFETIME: Final = dt.timedelta(seconds=0.5)
"""Spotify's live for an hour, too long to see one refreshed."""


async def keep_fresh(sessions: Sessions, work: asyncio.Future[Any]) -> int:
    """Refresh the token each time it expires, until *work* is done; return how often that was."""
    refreshes = 0
    expires_at = await _log_in(sessions)
    while True:
        lifetime = expires_at - dt.datetime.now(dt.UTC)
        done, _ = await asyncio.wait({work}, timeout=lifetime.total_seconds())
        if done:
            return refreshes
        expires_at = await _refresh(sessions)
        refreshes += 1


@transaction
async def _log_in(sessions: Sessions) -> dt.datetime:
    async with sessions.begin() as db:
        token = await crud.get_spotify_token(db)
        if token is None:
            login = {**_answer(), "refresh_token": f"stand-in-{secrets.token_urlsafe()}"}
            token = await crud.create_or_update_spotify_token(db, login)
        return token.expires_at


@transaction
async def _refresh(sessions: Sessions) -> dt.datetime:
    async with sessions.begin() as db:
        token = await crud.create_or_update_spotify_token(db, _answer())
        return token.expires_at


def _answer() -> dict[str, object]:
    """Answer as a token endpoint does that lets the refresh token stay valid: without one."""
    return {
        "access_token": f"stand-in-{secrets.token_urlsafe()}",
        "expires_at": dt.datetime.now(dt.UTC) + LIFETIME,
    }
