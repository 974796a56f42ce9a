"""The commands about the token and its keys, these in processes of their own."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import text

from tests.cli.programs import run
from tests.cli.shell import Shell
from tests.support.factories import EXPIRES_AT, Sessions, add_token
from tests.support.secrets import KEYRING, KEYS
from zotify_async_crud import database
from zotify_async_crud.encryption import TokenKeyring, key_id

OLD, NEW, OTHER = KEYS
NEW_RING: Final = TokenKeyring(NEW)


async def _key_ids(sessions: Sessions) -> set[str | None]:
    async with sessions() as db:
        stored = await db.execute(text("SELECT access_token, refresh_token FROM spotify_tokens"))
        return {key_id(value) for value in stored.one()}


def test_a_key_is_made_by_one_command(tmp_path: Path) -> None:
    """It is printed alone, so that it can be sent into a file, and is another each time."""
    first, second = (run(tmp_path, "token", "generate-key") for _ in range(2))

    assert (first.returncode, first.stderr) == (0, "")
    assert TokenKeyring(first.stdout.strip()).ids != TokenKeyring(second.stdout.strip()).ids


async def test_keys_in_the_environment_are_rotated(
    url: str, sessions: Sessions, tmp_path: Path
) -> None:
    """The first is the one that encrypts; the second time there is nothing to do."""
    await add_token(sessions)
    keys = f"{NEW} {OLD}"
    command = ("token", "rotate-keys", "--database-url", url)

    first, second = (run(tmp_path, *command, ZOTIFY_TOKEN_KEYS=keys) for _ in range(2))

    assert first.stdout == f"The token is now encrypted by key {NEW_RING.current_id}\n"
    assert second.stdout == f"No token needed to be encrypted by key {NEW_RING.current_id}\n"
    assert await _key_ids(sessions) == {NEW_RING.current_id}


async def test_keys_in_a_private_file_are_rotated(
    url: str, sessions: Sessions, tmp_path: Path
) -> None:
    """One on each line, with comments."""
    await add_token(sessions)
    file = tmp_path / "keys"
    file.touch(0o600)
    file.write_text(f"# since November\n{NEW}\n\n  {OLD}\n")

    done = run(
        tmp_path,
        *("token", "rotate-keys", "--database-url", url),
        ZOTIFY_TOKEN_KEYS="",
        ZOTIFY_TOKEN_KEY_FILE=str(file),
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert await _key_ids(sessions) == {NEW_RING.current_id}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_file_of_keys_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    """By the variable that names it, and without what is in it."""
    file = tmp_path / "keys"
    file.write_text(NEW)
    file.chmod(mode)

    done = run(tmp_path, "token", "rotate-keys", ZOTIFY_TOKEN_KEYS="", ZOTIFY_TOKEN_KEY_FILE="keys")

    assert done.returncode == 2
    assert done.stderr == (
        "zotify-async-crud: ZOTIFY_TOKEN_KEY_FILE:"
        " The file's mode should be 0600, for its owner only\n"
    )


def test_a_file_of_something_else_has_no_keys(tmp_path: Path) -> None:
    """Nothing of it is shown."""
    file = tmp_path / "keys"
    file.write_text("sch\u00f6n", encoding="utf-8")
    file.chmod(0o600)

    done = run(tmp_path, "token", "rotate-keys", ZOTIFY_TOKEN_KEYS="", ZOTIFY_TOKEN_KEY_FILE="keys")

    assert done.returncode == 2
    assert done.stderr.startswith("zotify-async-crud: ZOTIFY_TOKEN_KEY_FILE: Input should be keys ")


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"ZOTIFY_TOKEN_KEYS": ""}, "ZOTIFY_TOKEN_KEYS: Input should be the token's keys"),
        ({"ZOTIFY_TOKEN_KEYS": " "}, "ZOTIFY_TOKEN_KEYS: Input should be keys"),
        ({"ZOTIFY_TOKEN_KEYS": f"{NEW} x{OLD}"}, "ZOTIFY_TOKEN_KEYS: Input should be keys"),
        (
            {"ZOTIFY_TOKEN_KEYS": NEW, "ZOTIFY_TOKEN_KEY_FILE": "keys"},
            "ZOTIFY_TOKEN_KEYS: Input should not be given together",
        ),
        (
            {"ZOTIFY_TOKEN_KEYS": "", "ZOTIFY_TOKEN_KEY_FILE": "no such file"},
            "ZOTIFY_TOKEN_KEY_FILE: No such file or directory: no such file",
        ),
    ],
)
def test_keys_that_are_none_are_refused_in_one_line(
    tmp_path: Path, variables: dict[str, str], complaint: str
) -> None:
    """Which names the variable and shows no key."""
    done = run(tmp_path, "token", "rotate-keys", **variables)

    assert done.returncode == 2
    assert done.stderr.startswith(f"zotify-async-crud: {complaint}")
    assert (done.stderr.count("\n"), done.stdout) == (1, "")
    assert [key for key in KEYS if key in done.stderr] == []


async def test_a_token_under_an_unknown_key_is_told_in_one_line(
    url: str, sessions: Sessions, tmp_path: Path
) -> None:
    """And stays as it is."""
    await add_token(sessions)

    done = run(
        tmp_path, "token", "rotate-keys", "--database-url", url, ZOTIFY_TOKEN_KEYS=f"{NEW} {OTHER}"
    )

    assert done.returncode == 1
    assert done.stderr == (
        "zotify-async-crud: log in again:"
        " the stored token is encrypted by a key that is not in the key ring\n"
    )
    assert await _key_ids(sessions) == {KEYRING.current_id}


async def test_a_rotation_is_told_to_a_script(url: str, sessions: Sessions, tmp_path: Path) -> None:
    """Whether there was anything to do."""
    await add_token(sessions)
    command = ("token", "rotate-keys", "--json", "--database-url", url)

    done = run(tmp_path, *command, ZOTIFY_TOKEN_KEYS=f"{NEW} {OLD}")

    assert json.loads(done.stdout) == {"rotated": True, "key_id": NEW_RING.current_id}


SECRETS: Final = ("access", "refresh")
FACTS: Final = {"expires_at", "scope", "token_type", "updated_at", "retry_at", "failure"}


def add(shell: Shell) -> None:
    """Log in, under the first of the tests' keys."""
    shell.do(lambda engine: add_token(database.create_session_factory(engine)))


def test_a_token_is_told_and_deleted(shell: Shell) -> None:
    """With all that is known of it but itself."""
    assert shell.json("token", "status") == {"logged_in": False}
    add(shell)
    found = shell.json("token", "status")
    assert found["logged_in"] is True
    assert (found["encrypted_by"], found["in_clear"]) == ([KEYRING.current_id], False)
    assert (found["needs_login"], found["failures"], found["problem"]) == (False, 0, None)
    assert dt.datetime.fromisoformat(found["expires_at"]) == EXPIRES_AT
    assert found.keys() > FACTS
    text = shell.run("token", "status")
    assert "2031-02-03 04:05:06 UTC" in text
    assert not [secret for secret in SECRETS if f"{secret}-" in text]
    assert shell.run("token", "delete", "--yes") == "Nobody is logged in\n"
    assert shell.json("token", "delete", "--yes") == {"logged_in": False}
    assert "Logged in │ no" in shell.run("token", "status")


def test_a_token_that_cannot_be_decrypted_is_told(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the key that would do it."""
    add(shell)
    monkeypatch.setenv("ZOTIFY_TOKEN_KEYS", OTHER)
    found = shell.json("token", "status")
    assert found["problem"] == (
        "the stored token is encrypted by a key that is not in the key ring"
    )
    assert (found["encrypted_by"], found["expires_at"]) == ([KEYRING.current_id], None)


def test_a_token_that_was_changed_is_told(shell: Shell) -> None:
    """Nobody can say any more which key it was."""
    add(shell)
    shell.execute("UPDATE spotify_tokens SET access_token = access_token || 'x'")
    found = shell.json("token", "status")
    assert found["problem"] == "the stored token was changed, and cannot be decrypted"
    assert (found["encrypted_by"], found["in_clear"]) == ([], False)


def test_a_token_in_clear_is_told(shell: Shell) -> None:
    """Also where only one of the two parts is."""
    add(shell)
    shell.execute("UPDATE spotify_tokens SET access_token = 'access-1'")
    found = shell.json("token", "status")
    assert (found["encrypted_by"], found["in_clear"]) == ([KEYRING.current_id], True)
    assert found["problem"] is None
