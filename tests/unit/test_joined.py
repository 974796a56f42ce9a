"""Lists as one text each: whatever is in them, it comes apart again as it was."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from zotify_async_crud._dialects.joined import joined

TEXTS = st.lists(
    st.none() | st.text(st.sampled_from("ab,\x1c\x1d\x1e\x1f")) | st.text(), min_size=1
).filter(lambda values: values != [""])


@given(lists=st.lists(TEXTS, min_size=1, max_size=3))
@example(lists=[["a\x1f", "\x1fb"], ["\x1e", None]])
@example(lists=[["a", "b"], ["", None]])
def test_what_was_joined_comes_apart_as_it_was(lists: list[list[str | None]]) -> None:
    """None stays None, an empty text empty, and no text is torn where it looks like a mark."""
    texts, mark, null = joined(lists)

    found = [text.split(mark) for text in texts]
    assert [[None if part == null else part for part in parts] for parts in found] == lists


def test_numbers_become_their_digits() -> None:
    """PostgreSQL reads them back by the type of the column."""
    assert joined([[1, -2, None], [0.1, 1e-7, 1e22]]).texts == [
        "1\x1f-2\x1f\x1e",
        "0.1\x1f1e-07\x1f1e+22",
    ]
