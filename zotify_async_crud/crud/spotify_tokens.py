"""The one Spotify token. Its values appear in no log, error or repr."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils import uuid7

from zotify_async_crud import _validation as check
from zotify_async_crud import encryption
from zotify_async_crud._secrets import Hidden
from zotify_async_crud._statements import spotify_tokens as sql
from zotify_async_crud.crud._session import (
    begin_unit,
    database_of,
    dialect_of,
    execute,
    secret_row,
)
from zotify_async_crud.errors import InvalidValue
from zotify_async_crud.models import SpotifyToken


async def get_spotify_token(db: AsyncSession) -> SpotifyToken | None:
    """Return the token as it is in the database now, or None when nobody is logged in.

    It may have expired: ``token_refresh.get_valid_spotify_token`` returns one that has not.

    Raises:
        LoginRequired: It is encrypted by a key that the engine has not, or was changed.
    """
    row = await secret_row(db, sql.get_spotify_token())
    return None if row is None else _token(row)


async def create_or_update_spotify_token(
    db: AsyncSession, token_data: Mapping[str, Any]
) -> SpotifyToken:
    """Store the token after a login or a refresh; there is only ever one.

    *token_data* is what the token endpoint answered, or a part of it (see
    ``schemas.SpotifyTokenData``): an ``access_token``, and ``expires_at`` (an aware datetime or
    seconds since the epoch) or ``expires_in`` (seconds). A ``refresh_token``, ``scope`` or
    ``token_type`` that is absent or None stays as it is stored. Whatever is given counts as a
    login: what a refresh under way answers is not stored any more.

    It is encrypted by the engine's key ring. Without one it is stored in clear, and the warning
    ``TokenInClear`` says so once for each engine.

    Raises:
        InvalidValue: Also when there is no refresh token, neither given nor stored.
        LoginRequired: The stored refresh token was to be kept, and cannot be decrypted.
    """
    given = Hidden(token_data)
    del token_data  # a traceback may show locals
    database = database_of(db)
    new = check.token_data(given)
    warn_of_clear_text(db)
    login_id = str(uuid7())
    if new.refresh_token is not None:
        statement = sql.log_in(database, new, login_id)
    else:
        # held, so that no login comes between, and read, so that it is encrypted afresh
        await begin_unit(db)
        held = await secret_row(db, sql.hold_spotify_token())
        if held is None:
            raise InvalidValue("refresh_token", "Field required: none is stored yet")
        statement = sql.overwrite(new, _token(held).refresh_token, login_id)
    return _token(await secret_row(db, statement))


async def delete_spotify_token(db: AsyncSession) -> None:
    """Delete the token: log the user out. Nothing to delete is no error."""
    await execute(db, sql.delete_spotify_token(), secret=True)


async def rotate_token_keys(db: AsyncSession) -> bool:
    """Encrypt the token by the current key of the engine's key ring; return whether it was not.

    Call it once every process has a ring with that key as the current one, and has ended the
    transactions that it began before. Afterwards nothing that is stored needs an older key.

    Raises:
        InvalidValue: The engine has no key ring.
        LoginRequired: The token cannot be decrypted.
    """
    keyring = encryption.keyring_of(dialect_of(db))
    if keyring is None:
        raise InvalidValue("db", "Its engine should have a token_keyring")
    await begin_unit(db)
    held = await secret_row(db, sql.hold_spotify_token())
    if held is None:
        return False
    stored = await secret_row(db, sql.stored_texts())
    if all(encryption.key_id(text) == keyring.current_id for text in stored or ()):
        return False
    await execute(db, sql.store_again(_token(held)), secret=True)
    return True


def _token(row: Any) -> SpotifyToken:
    token: SpotifyToken = row[0]
    return token


def warn_of_clear_text(db: AsyncSession) -> None:
    """Say that the token will be stored in clear, once for each engine."""
    if encryption.is_first_in_clear(dialect_of(db)):
        warnings.warn(
            "the Spotify token is stored in clear: pass token_keyring to create_engine",
            encryption.TokenInClear,
            stacklevel=3,
        )
