"""Keyset pages: where the next one begins is told by the last row, never by a count of rows."""

from __future__ import annotations

import base64
import datetime as dt
from dataclasses import dataclass
from typing import Generic, TypeVar

from zotify_async_crud._validation import findable
from zotify_async_crud.errors import InvalidValue

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items of a list, and where the next ones begin.

    Pass ``after`` to the same coroutine for the next page; it is None on the last one. It is
    opaque, safe in a URL, and stays valid when rows come or go.
    """

    items: list[T]
    after: str | None


def encode_text(text: str) -> str:
    """Return *text* in characters that a URL can hold."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_text(after: str | None) -> str | None:
    """Return the id that ``encode_text`` wrote.

    Raises:
        InvalidValue: It did not write *after*.
    """
    if after is None:
        return None
    try:
        padded = after.encode("ascii") + b"=" * (-len(after) % 4)
        text = base64.b64decode(padded, b"-_", validate=True).decode()
        if encode_text(text) == after and findable(text, "after"):
            return text
    except (AttributeError, ValueError):
        pass
    raise InvalidValue("after", "Input should be the after of a page")


def encode_key(created_at: dt.datetime, key: str) -> str:
    """Return the position of a row in a list ordered by time and id, as text for a URL."""
    return encode_text(f"{created_at.isoformat()} {key}")


def decode_key(after: str | None) -> tuple[dt.datetime, str] | None:
    """Return the position that ``encode_key`` wrote.

    Raises:
        InvalidValue: It did not write *after*.
    """
    text = decode_text(after)
    if text is None:
        return None
    try:
        created_at, key = text.split(" ", maxsplit=1)
        moment = dt.datetime.fromisoformat(created_at).astimezone(dt.UTC)
        if encode_key(moment, key) == after and findable(key, "after"):
            return moment, key
    except (ValueError, OverflowError):
        pass
    raise InvalidValue("after", "Input should be the after of a page")
