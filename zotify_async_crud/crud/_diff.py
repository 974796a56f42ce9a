"""The fewest rows to write so that a stored list becomes another one.

Each row has a position, and only their order counts. New rows take positions in the gaps between
those that stay; where a gap is used up, the rows around it are spread anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

GAP: Final = 2**40
"""How far apart new rows are at an end of the list: 40 can come between two, each beside the last.

A million of them are still far from the end of 64 bits.
"""

_ROOM: Final = 2**20
"""How far apart rows are at least where they had to be spread anew, for each that was.

The more had to move, the more can come between them until they have to again.
"""

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1

_MOST_PAIRS: Final = 2_000_000
"""How many pairs of equal items are looked at: in a long list not all of those of one value."""

_FEWEST_PARTNERS: Final = 8

_Chain: TypeAlias = "tuple[int, int, _Chain | None]"


class Diff(NamedTuple):
    """What to do, in this order; no row ever comes to a position that another still has."""

    removed: list[int]
    """Positions."""

    moved: list[tuple[int, int]]
    """Positions, the old and the new one."""

    added: list[tuple[int, str]]
    """Positions and items."""


def diff(positions: Sequence[int], stored: Sequence[str], wanted: Sequence[str]) -> Diff:
    """Return what makes *wanted* of the items *stored* at the ascending *positions*.

    As few rows stay untouched as a longest common subsequence allows. An item that leaves one place
    and comes to another is one row that moves.
    """
    if stored == wanted:
        return Diff([], [], [])
    if not stored:
        return Diff([], [], [(GAP * place, item) for place, item in enumerate(wanted)])
    kept = _kept(stored, wanted)
    spare = _spare(stored, kept)
    sources = [
        spare[item].pop() if source is None and spare.get(item) else source
        for item, source in zip(wanted, kept, strict=True)
    ]
    removed = sorted(positions[place] for places in spare.values() for place in places)
    places = [None if place is None else positions[place] for place in kept]
    taken = {positions[place] for place in {*sources} - {*kept} if place is not None}
    moved, added = [], []
    for item, source, place in zip(wanted, sources, _filled(places, taken), strict=True):
        if source is None:
            added.append((place, item))
        elif positions[source] != place:
            moved.append((positions[source], place))
    return Diff(removed, moved, added)


def _kept(stored: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
    """Return for each item *wanted* the place of the one *stored* that stays, if one does."""
    start = _common(stored, wanted)
    stop = _common(stored[start:][::-1], wanted[start:][::-1])
    kept: list[int | None] = [*range(start), *[None] * (len(wanted) - start)]
    for place in range(stop):
        kept[-1 - place] = len(stored) - 1 - place
    for here, there in _longest_common(
        stored[start : len(stored) - stop], wanted[start : len(wanted) - stop]
    ):
        kept[start + there] = start + here
    return kept


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return with how many equal items both begin."""
    for count, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return count
    return min(len(one), len(other))


def _longest_common(stored: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the places in both of a longest common subsequence, from its end.

    By the pairs of equal items (Hunt and Szymanski, CACM 20(5), 1977): of all chains of a length
    that ascend in both, the one that ends first in *stored* is kept.
    """
    ends: list[int] = []
    chains: list[_Chain] = []
    for there, partners in _partners(stored, wanted):
        for here in partners:
            length = bisect_left(ends, here)
            chain = (here, there, chains[length - 1] if length else None)
            if length == len(ends):
                ends.append(here)
                chains.append(chain)
            else:
                ends[length], chains[length] = here, chain
    rest = chains[-1] if chains else None
    while rest:
        here, there, rest = rest
        yield here, there


def _partners(stored: Sequence[str], wanted: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
    """Yield for each item *wanted* its place, and those of equal ones *stored*, the last first.

    Of an item that is there very often, those about as often preceded by an equal one must do.
    """
    places = defaultdict(list)
    for place, item in enumerate(stored):
        places[item].append(place)
    reach = max(_FEWEST_PARTNERS, _MOST_PAIRS // (len(wanted) + 1)) // 2
    before: Counter[str] = Counter()
    for there, item in enumerate(wanted):
        if item in places:
            rank = before[item]
            before[item] += 1
            yield there, places[item][max(0, rank - reach) : rank + reach][::-1]


def _spare(stored: Sequence[str], kept: Sequence[int | None]) -> defaultdict[str, list[int]]:
    """Return the places of each item *stored* that is not kept, the first of them last."""
    untouched = set(kept)
    spare: defaultdict[str, list[int]] = defaultdict(list)
    for place in reversed(range(len(stored))):
        if place not in untouched:
            spare[stored[place]].append(place)
    return spare


def _filled(places: list[int | None], taken: set[int]) -> list[int]:
    """Return *places* with the unknown ones filled in: they ascend, and none is *taken*.

    Where there is no room, known ones beside change as well, and are taken from then on.
    """
    start = 0
    while start < len(places):
        stop = _end_of_unknown(places, start)
        if stop > start:
            stop = _fill(places, start, stop, taken)
        start = stop + 1
    return [place for place in places if place is not None]


def _fill(places: list[int | None], start: int, stop: int, taken: set[int]) -> int:
    """Fill in the unknown places from *start* to *stop*; return where what was filled in ends."""
    least = 1
    while not (found := _spread(places, start, stop, least, taken)):
        more = stop - start
        start, stop = max(0, start - more), _end_of_unknown(places, stop + more)
        taken.update(place for place in places[start:stop] if place is not None)
        places[start:stop] = [None] * (stop - start)
        least = min(GAP, _ROOM * (stop - start))  # a whole list has no more
    places[start:stop] = found
    return stop


def _end_of_unknown(places: list[int | None], start: int) -> int:
    stop = min(start, len(places))
    while stop < len(places) and places[stop] is None:
        stop += 1
    return stop


def _spread(
    places: list[int | None], start: int, stop: int, least: int, taken: set[int]
) -> list[int]:
    """Return places for those from *start* to *stop*, at *least* so far apart, or none at all."""
    count = stop - start
    low = places[start - 1] if start else None
    high = places[stop] if stop < len(places) else None
    if low is None:
        low = -GAP if high is None else high - GAP * (count + 1)
    if high is None:
        high = low + GAP * (count + 1)
    step = (high - low) // (count + 1)
    # one that is taken is passed by, at most as many as there are, before the next
    if step < max(least, len(taken) + 1) or low < _LOWEST or high > _HIGHEST:
        return []
    return [_free(low + step * number, taken) for number in range(1, count + 1)]


def _free(place: int, taken: set[int]) -> int:
    while place in taken:
        place += 1
    return place
