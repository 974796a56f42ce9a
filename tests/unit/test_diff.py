"""How many rows of a list are written when it is edited, one edit after the other."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, TypeAlias

import pytest

from zotify_async_crud.crud._diff import Diff, diff

Edit: TypeAlias = Callable[[list[str], Callable[[int], int], random.Random], None]

PLACES: Final[dict[str, Callable[[int], int]]] = {
    "at the front": lambda _: 0,
    "after the first": lambda _: 1,
    "in the middle": lambda length: length // 2,
    "before the last": lambda length: length - 1,
}


def edited(rows: dict[int, str], changes: Diff) -> dict[int, str]:
    """Return the rows by their positions after *changes*, none of which may meet another row."""
    left = {place: item for place, item in rows.items() if place not in changes.removed}
    moved = {new: left.pop(old) for old, new in changes.moved}
    added = dict(changes.added)
    assert not left.keys() & moved.keys()
    assert not (left | moved).keys() & added.keys()
    return dict(sorted((left | moved | added).items()))


def insert(items: list[str], place: Callable[[int], int], _: random.Random) -> None:
    """Put a new item at *place*."""
    items.insert(place(len(items)), f"new-{len(items)}")


def move(items: list[str], place: Callable[[int], int], chance: random.Random) -> None:
    """Put any of the items at *place*."""
    item = items.pop(chance.randrange(len(items)))
    items.insert(place(len(items)), item)


@pytest.mark.parametrize("edit", [insert, move])
@pytest.mark.parametrize("place", PLACES)
def test_a_thousand_edits_of_one_place_write_few_rows_each(edit: Edit, place: str) -> None:
    """Where the gap is used up, so many around it are spread anew that it seldom is again."""
    chance = random.Random(5)
    items = [f"item-{number}" for number in range(300)]
    rows = edited({}, diff([], [], items))
    written = 0
    for _ in range(1_000):
        edit(items, PLACES[place], chance)
        changes = diff([*rows], [*rows.values()], items)
        rows = edited(rows, changes)
        assert [*rows.values()] == items
        written += len(changes.removed) + len(changes.moved) + len(changes.added)
    assert written <= 4.5 * 1_000
