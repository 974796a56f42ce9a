"""The token's columns, encrypted before they are bound: nothing else ever sees them in clear.

A value is sealed by AES-256-GCM (NIST SP 800-38D) with a random nonce of 96 bits, which is safe for
2**32 values of a key. The envelope names its format and its key. Both are authenticated, and so is
the place of the value, so that an envelope opens in no other column or row.

No character of an envelope occurs in a token in clear, and none in clear is taken that has one of
them. What is left of an envelope that was cut or changed is therefore never read as a token.
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Any, Final, NoReturn
from weakref import WeakKeyDictionary, WeakSet

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import ColumnElement, Dialect, Engine, Text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from zotify_async_crud._secrets import SecretValue
from zotify_async_crud.errors import InvalidValue, LoginRequired

KEY_BYTES: Final = 32

_FORMAT: Final = b"\x01"
_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_HEADER_BYTES: Final = len(_FORMAT) + _ID_BYTES

FIRST_CHARACTER: Final = 0x2800
LAST_CHARACTER: Final = 0x28FF
"""An envelope is written in Braille patterns, one for each byte."""

_UNKNOWN_KEY: Final = "the stored token is encrypted by a key that is not in the key ring"
_UNREADABLE: Final = "the stored token was changed, and cannot be decrypted"
_NO_KEYRING: Final = "the stored token is encrypted, and the engine has no token_keyring"


class TokenInClear(UserWarning):
    """The Spotify token is stored unencrypted; pass ``token_keyring`` to ``create_engine``."""


def generate_key() -> str:
    """Return a new random key of 256 bits, as ``TokenKeyring`` takes it: 43 characters."""
    return base64.urlsafe_b64encode(os.urandom(KEY_BYTES)).rstrip(b"=").decode()


class TokenKeyring:
    """The keys of the token: new values are sealed by *current*, and *older* open what is stored.

    Each is what ``generate_key`` returns: 32 bytes in base64url. To change the key, give every
    process a ring that knows the new one among *older*, then one that has it as *current*, then
    call ``crud.rotate_token_keys``; from then on no process needs the old one.

    Raises:
        InvalidValue: A key is none; the message does not show it.
    """

    def __init__(self, current: str, *older: str) -> None:
        keys = {"current": SecretValue(current)}
        keys |= {f"older[{place}]": SecretValue(key) for place, key in enumerate(older)}
        del current, older  # a traceback may show locals
        self._ciphers: dict[bytes, AESGCM] = {}
        for field, key in keys.items():
            name, cipher = _key(field, key)
            self._ciphers[name] = cipher
        self._current = next(iter(self._ciphers))

    @property
    def current_id(self) -> str:
        """What an envelope of the current key calls it: the begin of the key's SHA-256."""
        return self._current.hex()

    @property
    def ids(self) -> list[str]:
        """The ids of all keys, the current one first."""
        return [name.hex() for name in self._ciphers]

    def seal(self, value: str, place: str) -> str:
        """Return the envelope of *value*, which opens only at *place*."""
        header, nonce = _FORMAT + self._current, os.urandom(_NONCE_BYTES)
        cipher = self._ciphers[self._current]
        sealed = cipher.encrypt(nonce, value.encode(), _context(header, place))
        return _written(header + nonce + sealed)

    def open(self, envelope: str, place: str) -> SecretValue:
        """Return what is sealed in *envelope*.

        Raises:
            LoginRequired: It was sealed by an unknown key or at another place, or was changed.
        """
        data = _read(envelope)
        header, nonce = data[:_HEADER_BYTES], data[_HEADER_BYTES:][:_NONCE_BYTES]
        sealed = data[_HEADER_BYTES + _NONCE_BYTES :]
        cipher = self._ciphers.get(header[len(_FORMAT) :])
        if not header.startswith(_FORMAT) or len(nonce) < _NONCE_BYTES:
            raise LoginRequired(_UNREADABLE)
        if cipher is None:
            raise LoginRequired(_UNKNOWN_KEY)
        try:
            return SecretValue(cipher.decrypt(nonce, sealed, _context(header, place)).decode())
        except InvalidTag:
            pass
        raise LoginRequired(_UNREADABLE)

    def __repr__(self) -> str:
        return f"TokenKeyring(ids={self.ids})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a key ring cannot be pickled")


class _Undecoded(FunctionElement[str]):
    """A column whose text is decoded here: where it is no text, SQLite's driver would quote it."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[str]) -> None:
        super().__init__(column)
        self.type = column.type


@compiles(_Undecoded)
def _plain(element: _Undecoded, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


@compiles(_Undecoded, "sqlite")
def _as_bytes(element: _Undecoded, compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST({compiler.process(element.clauses, **kw)} AS BLOB)"


class _TokenText(TypeDecorator[str]):
    """What a token's column has, and no log or error shows."""

    impl = Text
    cache_ok = True

    def column_expression(self, column: ColumnElement[str]) -> ColumnElement[str]:
        return _Undecoded(column)

    def process_result_value(self, value: str | bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else SecretValue(_decoded(value))


class StoredText(_TokenText):
    """A token's text as it is stored, which may be in clear."""

    cache_ok = True


class SealedText(_TokenText):
    """Text that is encrypted by the engine's key ring.

    Without a key ring it is stored in clear. What is in clear is read with a ring too, and is
    encrypted when it is written again.
    """

    cache_ok = True

    def __init__(self, place: str) -> None:
        super().__init__()
        self.place = place

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        keyring = keyring_of(dialect)
        if value is None or keyring is None:
            return None if value is None else SecretValue(value)
        return keyring.seal(value, self.place)

    def process_result_value(self, value: str | bytes | None, dialect: Dialect) -> str | None:
        stored = super().process_result_value(value, dialect)
        if stored is None or not is_sealed(stored):
            return stored
        keyring = keyring_of(dialect)
        if keyring is None:
            raise LoginRequired(_NO_KEYRING)
        return keyring.open(stored, self.place)


_KEYRINGS: Final[WeakKeyDictionary[Dialect, TokenKeyring]] = WeakKeyDictionary()
_IN_CLEAR: Final[WeakSet[Dialect]] = WeakSet()


def use_keyring(engine: AsyncEngine | Engine, keyring: TokenKeyring | None) -> None:
    """Let *engine* seal and open tokens by *keyring* from now on; with None, keep them in clear."""
    if keyring is None:
        _KEYRINGS.pop(engine.dialect, None)
        return
    if not isinstance(keyring, TokenKeyring):
        raise InvalidValue("token_keyring", "Input should be a TokenKeyring")
    _KEYRINGS[engine.dialect] = keyring


def keyring_of(dialect: Dialect) -> TokenKeyring | None:
    """Return the key ring of the engine that has *dialect*."""
    return _KEYRINGS.get(dialect)


def is_first_in_clear(dialect: Dialect) -> bool:
    """Tell whether the engine that has *dialect* has no key ring, and nobody has asked before."""
    if dialect in _KEYRINGS or dialect in _IN_CLEAR:
        return False
    _IN_CLEAR.add(dialect)
    return True


def is_sealed(value: str) -> bool:
    """Tell whether *value* is an envelope, or is left of one."""
    return any(FIRST_CHARACTER <= ord(character) <= LAST_CHARACTER for character in value)


def key_id(value: str) -> str | None:
    """Return the id of the key that sealed *value*, or None if that is in clear.

    Raises:
        LoginRequired: It is not whole.
    """
    if not is_sealed(value):
        return None
    data = _read(value)
    if not data.startswith(_FORMAT) or len(data) < _HEADER_BYTES:
        raise LoginRequired(_UNREADABLE)
    return data[len(_FORMAT) : _HEADER_BYTES].hex()


def _decoded(value: str | bytes) -> str:
    try:
        return value if isinstance(value, str) else value.decode()
    except UnicodeDecodeError:
        pass
    raise LoginRequired(_UNREADABLE)


def _written(data: bytes) -> str:
    return "".join(chr(FIRST_CHARACTER + byte) for byte in data)


def _read(envelope: str) -> bytes:
    try:
        return bytes(ord(character) - FIRST_CHARACTER for character in envelope)
    except ValueError:
        pass
    raise LoginRequired(_UNREADABLE)


def _context(header: bytes, place: str) -> bytes:
    return header + place.encode()


def _key(field: str, key: SecretValue) -> tuple[bytes, AESGCM]:
    try:
        return _ciphered(base64.b64decode(key.rstrip("=") + "=", altchars=b"-_", validate=True))
    except ValueError:
        pass
    # outside the except block, so that no __context__ carries the key along
    raise InvalidValue(field, "Input should be a key as generate_key() makes it")


def _ciphered(key: bytes) -> tuple[bytes, AESGCM]:
    """Return the id of *key*, and what encrypts by it."""
    if len(key) != KEY_BYTES:
        raise ValueError
    return hashlib.sha256(key).digest()[:_ID_BYTES], AESGCM(key)
