"""Lists of values that are sent as one text each.

PostgreSQL's driver looks at every element of an array several times, in Python: to send 10,000
texts so takes it longer than the database takes to store them. To send them as one text takes a
tenth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from secrets import token_hex
from typing import NamedTuple, cast


class Joined(NamedTuple):
    """Lists, each as one text: of ``["a", None]`` the text, the mark, and what stands for None."""

    texts: list[str]
    mark: str
    null: str


def joined(lists: Iterable[Sequence[object]]) -> Joined:
    """Join the elements of each list; one that has only an empty text would come back empty."""
    given = list(lists)
    mark, null = "\x1f", "\x1e"  # the unit and the record separator of ASCII
    while True:
        texts = [_text(values, mark, null) for values in given]
        if all(map(_is_plain, texts, given, repeat(mark), repeat(null))):
            return Joined(texts, mark, null)
        # no end of it is a beginning of it, so that no element can run into it
        mark, null = (f"\x1f{token_hex(8)}{end}" for end in "\x1c\x1d")


def _text(values: Sequence[object], mark: str, null: str) -> str:
    try:
        return mark.join(cast("Sequence[str]", values))
    except TypeError:  # not all are texts
        return mark.join([null if value is None else str(value) for value in values])


def _is_plain(text: str, values: Sequence[object], mark: str, null: str) -> bool:
    """Tell whether *mark* and *null* stand in *text* for what they mean, and nowhere else."""
    marks = max(len(values) - 1, 0)
    return text.count(mark) == marks and (null not in text or text.count(null) == _nones(values))


def _nones(values: Sequence[object]) -> int:
    return sum(value is None for value in values)
