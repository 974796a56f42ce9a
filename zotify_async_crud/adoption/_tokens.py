"""Which of the original's tokens is taken over: there may be several, of several users."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from pydantic import TypeAdapter
from sqlalchemy import Connection, Executable, Row, column, select, table, type_coerce

from zotify_async_crud import _validation as check
from zotify_async_crud import fields
from zotify_async_crud.adoption._ledger import Ledger
from zotify_async_crud.adoption._original import TOKENS
from zotify_async_crud.adoption._rows import Reader, fetched
from zotify_async_crud.encryption import StoredText
from zotify_async_crud.errors import InvalidValue

_SECRETS: Final = ("access_token", "refresh_token")
_QUERY: Final[Executable] = select(
    column("id"),
    column("user_id"),
    column("expires_at"),
    *(type_coerce(column(key), StoredText).label(key) for key in _SECRETS),
).select_from(table(TOKENS))
_SECRET: Final[TypeAdapter[str]] = TypeAdapter(fields.Token)

Token: TypeAlias = dict[str, Any]


def newest_token(connection: Connection, ledger: Ledger) -> Token | None:
    """Return what is to be stored of the token that expires last and can be refreshed."""
    reader = Reader(TOKENS, ledger)
    rows = fetched(TOKENS, lambda: connection.execute(_QUERY).all())
    found = [(row, _token(reader, row)) for row in rows]
    usable = [(token["expires_at"], row.id, row.user_id, token) for row, token in found if token]
    ledger.left_out_tokens = len(found) - min(len(usable), 1)
    if not usable:
        return None
    *_, user_id, token = max(usable, key=lambda each: each[:2])
    if user_id is not None:
        reader.note("user_id", "has no place here: the token is everybody's", user_id)
    return token


def _token(reader: Reader, row: Row[Any]) -> Token | None:
    """Return the token, unless nobody could use it, or refresh it when it has expired."""
    expires_at = reader.instant("expires_at", row.expires_at, row.id)
    for key in _SECRETS:
        try:
            check.validated(key, _SECRET, getattr(row, key))
        except InvalidValue as error:
            reader.note(key, f"is no token, and is left out: {error.reason}", row.id)
            return None
    return {"expires_at": expires_at, **{key: getattr(row, key) for key in _SECRETS}}
