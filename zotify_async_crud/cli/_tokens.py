"""The commands about the token and its keys."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App

from zotify_async_crud import crud, database
from zotify_async_crud.cli._keys import KEY_FILE, KEYS, keyring
from zotify_async_crud.cli._options import DATABASE_URL
from zotify_async_crud.encryption import generate_key
from zotify_async_crud.errors import InvalidValue

app = App(name="token", help="The Spotify token, and the keys that encrypt it.")


@app.command(name="generate-key")
def print_key() -> None:
    """Print a new key, for ZOTIFY_TOKEN_KEYS or the file that ZOTIFY_TOKEN_KEY_FILE names."""
    sys.stdout.write(f"{generate_key()}\n")


@app.command
async def rotate_keys(
    *, database_url: Annotated[str, DATABASE_URL] = "sqlite:///zotify.db"
) -> None:
    """Encrypt the stored token by the first key, so that no other is needed any more.

    The keys are those of ZOTIFY_TOKEN_KEYS, or of the file that ZOTIFY_TOKEN_KEY_FILE names. Every
    other process must have the first of them by then.
    """
    keys = keyring()
    if keys is None:
        raise InvalidValue(KEYS, f"Input should be the token's keys, unless {KEY_FILE} is given")
    engine = database.create_engine(database_url, token_keyring=keys)
    try:
        async with database.create_session_factory(engine).begin() as db:
            is_new = await crud.rotate_token_keys(db)
    finally:
        await engine.dispose()
    outcome = "The token is now encrypted" if is_new else "No token needed to be encrypted"
    sys.stdout.write(f"{outcome} by key {keys.current_id}\n")
