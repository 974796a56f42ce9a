"""Statements of the one Spotify token."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import Select, delete, select, update
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Database
from zotify_async_crud.models import SpotifyToken

_THE_TOKEN: Final = SpotifyToken.id == 1


def get_spotify_token() -> Select[Any]:
    """Read the token."""
    return select(SpotifyToken).where(_THE_TOKEN)


def create_or_update_spotify_token(
    database: Database, access_token: str, refresh_token: str, expires_at: dt.datetime
) -> Executable:
    """Insert the token or overwrite all of it."""
    insertion = database.insert(SpotifyToken).values(
        id=1, access_token=access_token, refresh_token=refresh_token, expires_at=expires_at
    )
    new = insertion.excluded
    return insertion.on_conflict_do_update(
        index_elements=[SpotifyToken.id],
        set_={
            "access_token": new.access_token,
            "refresh_token": new.refresh_token,
            "expires_at": new.expires_at,
        },
    ).returning(SpotifyToken)


def refresh_spotify_token(access_token: str, expires_at: dt.datetime) -> Executable:
    """Overwrite the access token and its expiry, and keep the refresh token."""
    return (
        update(SpotifyToken)
        .where(_THE_TOKEN)
        .values(access_token=access_token, expires_at=expires_at)
        .returning(SpotifyToken)
        .execution_options(synchronize_session=False)
    )


def delete_spotify_token() -> Executable:
    """Delete the token."""
    return delete(SpotifyToken).where(_THE_TOKEN)
