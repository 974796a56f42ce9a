"""The commands about the token and its keys."""

from __future__ import annotations

from typing import Any, Final

from cyclopts import App
from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import crud, encryption
from zotify_async_crud._statements import spotify_tokens as sql
from zotify_async_crud.cli._database import reading, writing
from zotify_async_crud.cli._input import confirm
from zotify_async_crud.cli._keys import KEY_FILE, KEYS, keyring
from zotify_async_crud.cli._options import HERE, AsJson, Target, Yes
from zotify_async_crud.cli._output import say, show_json, show_record
from zotify_async_crud.encryption import generate_key
from zotify_async_crud.errors import InvalidValue, LoginRequired

app = App(name="token", help="The Spotify token, and the keys that encrypt it.")

_TOLD: Final = (
    *("expires_at", "scope", "token_type", "updated_at"),
    *("needs_login", "failures", "failure", "retry_at"),
)
_IN_CLEAR: Final = ""


@app.command(name="generate-key")
def print_key() -> None:
    """Print a new key, for ZOTIFY_TOKEN_KEYS or the file that ZOTIFY_TOKEN_KEY_FILE names."""
    say(generate_key())


@app.command
async def rotate_keys(*, target: Target = HERE, json: AsJson = False) -> None:
    """Encrypt the stored token by the first key, so that no other is needed any more.

    The keys are those of ZOTIFY_TOKEN_KEYS, or of the file that ZOTIFY_TOKEN_KEY_FILE names. Every
    other process must have the first of them by then.
    """
    keys = keyring()
    if keys is None:
        raise InvalidValue(KEYS, f"Input should be the token's keys, unless {KEY_FILE} is given")
    async with writing(target, token_keyring=keys) as db:
        is_new = await crud.rotate_token_keys(db)
    if json:
        show_json({"rotated": is_new, "key_id": keys.current_id})
        return
    outcome = "The token is now encrypted" if is_new else "No token needed to be encrypted"
    say(f"{outcome} by key {keys.current_id}")


@app.command
async def status(*, target: Target = HERE, json: AsJson = False) -> None:
    """Show whether somebody is logged in, until when, and who encrypted it; never the token."""
    async with reading(target, token_keyring=keyring()) as db:
        facts = await token_facts(db)
    (show_json if json else show_record)(facts)


@app.command
async def delete(*, target: Target = HERE, yes: Yes = False, json: AsJson = False) -> None:
    """Log out: delete the token. That does not revoke it, which Spotify's own site can do."""
    await confirm("Delete the token?", yes=yes)
    async with writing(target) as db:
        await crud.delete_spotify_token(db)
    if json:
        show_json({"logged_in": False})
    else:
        say("Nobody is logged in")


async def token_facts(db: AsyncSession) -> dict[str, Any]:
    """Return what may be told of the stored token, also where it cannot be decrypted."""
    token, problem = None, None
    try:
        token = await crud.get_spotify_token(db)
    except LoginRequired as error:
        problem = error.reason
    if token is None and problem is None:
        return {"logged_in": False}
    key_ids = await _key_ids(db)
    return {
        "logged_in": True,
        "problem": problem,
        "encrypted_by": sorted(key_ids - {_IN_CLEAR}),
        "in_clear": _IN_CLEAR in key_ids,
        **{name: getattr(token, name, None) for name in _TOLD},
    }


async def _key_ids(db: AsyncSession) -> set[str]:
    try:
        stored = (await db.execute(sql.stored_texts())).one_or_none()
        return {encryption.key_id(text) or _IN_CLEAR for text in stored or ()}
    except LoginRequired:
        return set()  # it was changed, which is the problem then
