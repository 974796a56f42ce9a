"""Where the command line finds the keys of the token: in the environment, or in a private file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from zotify_async_crud.encryption import TokenKeyring
from zotify_async_crud.errors import InvalidValue

KEYS: Final = "ZOTIFY_TOKEN_KEYS"
"""The variable with the keys, separated by spaces; the first encrypts."""

KEY_FILE: Final = "ZOTIFY_TOKEN_KEY_FILE"
"""The variable that names a file with a key on each line; lines that begin with # are skipped."""

_OTHERS: Final = 0o077


def keyring() -> TokenKeyring | None:
    """Return the key ring that the environment tells, or None.

    Raises:
        InvalidValue: The keys, or the file's mode, are not what they should be.
    """
    keys, path = os.environ.get(KEYS), os.environ.get(KEY_FILE)
    if keys and path:
        raise InvalidValue(KEYS, f"Input should not be given together with {KEY_FILE}")
    if path:
        return _ring(KEY_FILE, _private_lines(Path(path)))
    return _ring(KEYS, keys.split()) if keys else None


def _private_lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="ascii") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & _OTHERS:
                raise InvalidValue(KEY_FILE, "The file's mode should be 0600, for its owner only")
            lines = [line.strip() for line in file]
    except OSError as error:
        raise InvalidValue(KEY_FILE, f"{error.strerror}: {path}") from error
    except UnicodeDecodeError:
        lines = []
    return [line for line in lines if line and not line.startswith("#")]


def _ring(variable: str, keys: list[str]) -> TokenKeyring:
    try:
        return TokenKeyring(*keys)
    except (InvalidValue, TypeError):
        pass
    # outside the except block, so that no __context__ carries a key along
    raise InvalidValue(variable, "Input should be keys as `token generate-key` prints them")
