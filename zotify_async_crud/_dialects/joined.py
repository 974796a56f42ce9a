"""Lists of values that are sent as one text each.

PostgreSQL's driver looks at every element of an array several times, in Python: to send 10,000
texts so takes it longer than the database takes to store them. To send them as one text takes a
tenth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import NamedTuple


class Joined(NamedTuple):
    """Lists, each as one text: of ``["a", None]`` the text, the mark, and what stands for None."""

    texts: list[str]
    mark: str
    null: str


def joined(lists: Iterable[Sequence[object]]) -> Joined:
    """Join the elements of each list; one that has only an empty text would come back empty."""
    found = [[None if value is None else str(value) for value in values] for values in lists]
    mark, null = _not_in("".join(text for texts in found for text in texts if text))
    return Joined(
        [mark.join([null if text is None else text for text in texts]) for texts in found],
        mark,
        null,
    )


def _not_in(text: str) -> tuple[str, str]:
    """Return a mark and another that *text* does not hold."""
    mark, null = "\x1f", "\x1e"  # the unit and the record separator of ASCII
    while mark in text or null in text:
        # no end of it is a beginning of it, so that no element can run into it
        mark, null = (f"\x1f{token_hex(8)}{end}" for end in "\x1c\x1d")
    return mark, null
