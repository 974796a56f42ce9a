"""The one Spotify token. Its values appear in no log, error or repr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import _validation as check
from zotify_async_crud._statements import spotify_tokens as sql
from zotify_async_crud.crud._session import database_of, execute
from zotify_async_crud.errors import InvalidValue
from zotify_async_crud.models import SpotifyToken


async def get_spotify_token(db: AsyncSession) -> SpotifyToken | None:
    """Return the token as it is in the database now, or None when nobody is logged in."""
    found = await execute(db, sql.get_spotify_token(), secret=True)
    token: SpotifyToken | None = found.scalar_one_or_none()
    return token


async def create_or_update_spotify_token(
    db: AsyncSession, token_data: Mapping[str, Any]
) -> SpotifyToken:
    """Store the token after a login or a refresh; there is only ever one.

    *token_data* has an ``access_token``, an aware ``expires_at`` and a ``refresh_token``; when that
    is absent or None, the stored one stays.

    Raises:
        InvalidValue: Also when there is no refresh token, neither given nor stored.
    """
    database = database_of(db)
    new = check.token_data(token_data)
    if new.refresh_token is None:
        statement = sql.refresh_spotify_token(new.access_token, new.expires_at)
    else:
        statement = sql.create_or_update_spotify_token(
            database, new.access_token, new.refresh_token, new.expires_at
        )
    stored = await execute(db, statement, secret=True)
    token: SpotifyToken | None = stored.scalar_one_or_none()
    if token is None:
        raise InvalidValue("refresh_token", "Field required: none is stored yet")
    return token


async def delete_spotify_token(db: AsyncSession) -> None:
    """Delete the token: log the user out. Nothing to delete is no error."""
    await execute(db, sql.delete_spotify_token(), secret=True)
