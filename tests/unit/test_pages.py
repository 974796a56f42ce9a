"""Keyset pages: the text that says where the next one begins."""

from __future__ import annotations

import datetime as dt
import string
from dataclasses import FrozenInstanceError
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zotify_async_crud.crud import Page
from zotify_async_crud.crud._pages import decode_key, encode_key
from zotify_async_crud.errors import InvalidValue

MOMENT: Final = dt.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=dt.UTC)
URL_SAFE: Final = frozenset(string.ascii_letters + string.digits + "-_")


@given(
    moment=st.datetimes(timezones=st.just(dt.UTC)),
    key=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40),
)
def test_a_position_comes_back_as_it_was_and_is_safe_in_a_url(
    moment: dt.datetime, key: str
) -> None:
    """Whatever the id is, spaces and all."""
    text = encode_key(moment, key)

    assert decode_key(text) == (moment, key)
    assert set(text) <= URL_SAFE


def test_no_position_is_the_beginning() -> None:
    """The first page comes after nothing."""
    assert decode_key(None) is None


@given(text=st.text(st.characters(exclude_categories=())))
def test_any_other_text_is_refused_by_name(text: str) -> None:
    """A cursor comes from a URL, so anybody may write one."""
    try:
        position = decode_key(text)
    except InvalidValue as error:
        refusal = error
    else:
        assert position is not None
        assert encode_key(*position) == text
        return
    assert refusal.field == "after"
    assert (refusal.__cause__, refusal.__context__) == (None, None)


@given(cut=st.integers(min_value=0, max_value=200), letter=st.sampled_from(sorted(URL_SAFE)))
def test_a_damaged_position_is_refused_or_another_position(cut: int, letter: str) -> None:
    """Never an error of its own, and never two texts for one position."""
    text = encode_key(MOMENT, "0190c9b2-7e10-7a1c-8f3e-1a2b3c4d5e6f")
    cut %= len(text)
    for damaged in (text[:cut], text[:cut] + letter + text[cut + 1 :], text + letter, text + "="):
        try:
            position = decode_key(damaged)
        except InvalidValue:
            continue
        assert position is not None
        assert encode_key(*position) == damaged


def test_a_page_is_a_value() -> None:
    """Equal by what it holds, and not to be changed."""
    page = Page([1, 2], "after")

    assert page == Page([1, 2], "after")
    assert page != Page([1, 2], None)
    with pytest.raises(FrozenInstanceError):
        page.after = None  # type: ignore[misc]
