"""The commands about the token and its keys."""

from __future__ import annotations

from cyclopts import App
from rich.console import Console

from zotify_async_crud import crud, models
from zotify_async_crud.cli._database import checked, transaction
from zotify_async_crud.cli._keys import KEY_FILE, KEYS, keyring
from zotify_async_crud.cli._options import HERE, AsJson, Target, Yes
from zotify_async_crud.cli._output import confirm, say, show_facts, show_json
from zotify_async_crud.encryption import generate_key
from zotify_async_crud.errors import InvalidValue

app = App(name="token", help="The Spotify token, and the keys that encrypt it.")


@app.command(name="generate-key")
def print_key() -> None:
    """Print a new key, for ZOTIFY_TOKEN_KEYS or the file that ZOTIFY_TOKEN_KEY_FILE names."""
    say(generate_key())


@app.command
async def rotate_keys(*, target: Target = HERE) -> None:
    """Encrypt the stored token by the first key, so that no other is needed any more.

    The keys are those of ZOTIFY_TOKEN_KEYS, or of the file that ZOTIFY_TOKEN_KEY_FILE names. Every
    other process must have the first of them by then.
    """
    keys = keyring()
    if keys is None:
        raise InvalidValue(KEYS, f"Input should be the token's keys, unless {KEY_FILE} is given")
    async with transaction(target, token_keyring=keys) as db:
        is_new = await crud.rotate_token_keys(db)
    outcome = "The token is now encrypted" if is_new else "No token needed to be encrypted"
    say(f"{outcome} by key {keys.current_id}")


@app.command
async def status(*, target: Target = HERE, json: AsJson = False) -> None:
    """Show whether somebody is logged in, and until when; never the token itself."""
    async with transaction(target, read_only=True, token_keyring=keyring()) as db:
        token = await crud.get_spotify_token(db)
    facts = {"logged_in": token is not None, **(_facts(token) if token else {})}
    if json:
        show_json(facts)
    else:
        show_facts(((name.replace("_", " "), str(facts[name])) for name in facts), Console())


def _facts(token: models.SpotifyToken) -> dict[str, object]:
    names = ("expires_at", "scope", "updated_at", "needs_login", "failures", "failure", "retry_at")
    return {name: getattr(token, name) for name in names}


@app.command
async def delete(*, target: Target = HERE, yes: Yes = False) -> None:
    """Log out: delete the token. Its access can be revoked in the account's settings only."""
    async with checked(target) as sessions:
        confirm("Delete the token?", yes=yes)
        async with sessions.begin() as db:
            await crud.delete_spotify_token(db)
    say("There is no token any more")
