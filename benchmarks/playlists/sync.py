"""A playlist that is new, that did not change, and that came in another order."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Final

from sqlalchemy import select

from benchmarks.databases import BOTH, Database, Databases
from benchmarks.figures import Ratio, timed
from benchmarks.playlists.contestants import (
    Contestant,
    Sync,
    by_hand,
    loop,
    ours,
    ours_returned,
)
from benchmarks.report import Report
from zotify_async_crud import crud
from zotify_async_crud.models import Playlist, PlaylistTrack, Track

OURS: Final = "sync_playlists"
RETURNED: Final = "create_or_update_playlist"
BY_HAND: Final = "by hand on the driver"
LOOP: Final = "a track at a time"
CONTESTANTS: Final[Mapping[str, Contestant]] = {
    OURS: ours,
    RETURNED: ours_returned,
    BY_HAND: by_hand,
    LOOP: loop,
}

PLAYLIST: Final = "37i9dQZF1DXcBWIGoYBM5M"
SIZE: Final = 10_000
SIZES: Final = (1_000, 3_000, 10_000, 30_000, 100_000)
SMALL: Final = 10
ROUNDS: Final = 5
GROWING_ROUNDS: Final = 3

FIRST: Final = "first sync"
UNCHANGED: Final = "unchanged"
SHUFFLED: Final = "shuffled"
STEPS: Final = (FIRST, UNCHANGED, SHUFFLED)

REQUIRED_FIRST: Final = 1.5
"""How many times what is written by hand a first sync may take."""
REQUIRED_UNCHANGED: Final = 5.0
REQUIRED_TO_LOOP: Final = 200.0
REQUIRED_AFTER_SMALL: Final = 2.0
"""What a connection has done before may make a sync so many times slower."""
REQUIRED_GROWTH: Final = 2.0
"""A track among 100,000 may take so many times what one among 10,000 takes."""

Seconds = dict[str, list[float]]
"""What each step took, in each round."""


async def run(databases: Databases, report: Report) -> None:
    """Compare with the same by hand and by a loop, and show how the time grows with the size."""
    for name in BOTH:
        async with databases.fresh(name) as database:
            await database.keep_statistics_away()
            await _compare(database, report)
        async with databases.fresh(name) as database:
            await database.keep_statistics_away()
            await _after_small_ones(database, report)
        async with databases.fresh(name) as database:
            await database.keep_statistics_away()
            await _grow(database, report)


async def _compare(database: Database, report: Report) -> None:
    """Sync by turns; the loop, which takes half a minute, only once and between two of ours."""
    found: dict[str, Seconds] = {name: {step: [] for step in STEPS} for name in CONTESTANTS}
    async with AsyncExitStack() as stack:
        syncs = {
            name: await stack.enter_async_context(contestant(database))
            for name, contestant in CONTESTANTS.items()
        }
        for sync in syncs.values():  # connections and compiled statements are there
            await _steps(database, sync, SMALL)
        for number in range(ROUNDS):
            for name, sync in syncs.items():
                if name != LOOP or number == ROUNDS // 2:
                    for step, seconds in (await _steps(database, sync, SIZE)).items():
                        found[name][step].append(seconds)
    _show(database, found, report)


def _show(database: Database, found: Mapping[str, Seconds], report: Report) -> None:
    ours = found[OURS]
    report.table(
        f"{database.name}, {SIZE:,} tracks, milliseconds",
        ["", *STEPS, f"{OURS} is so many times as fast: {FIRST}", *STEPS[1:]],
        [
            [
                name,
                *(f"{median(seconds[step]) * 1e3:,.0f}" for step in STEPS),
                *(Ratio.of(seconds[step], ours[step]) if name != OURS else "" for step in STEPS),
            ]
            for name, seconds in found.items()
        ],
    )
    hand, predecessor = found[BY_HAND], found[LOOP]
    report.require(
        f"{database.name}, {FIRST}, to {BY_HAND}",
        Ratio.of(ours[FIRST], hand[FIRST]),
        at_most=REQUIRED_FIRST,
    )
    report.require(
        f"{database.name}, {BY_HAND}, to {UNCHANGED}",
        Ratio.of(hand[UNCHANGED], ours[UNCHANGED]),
        at_least=REQUIRED_UNCHANGED,
    )
    report.require(
        f"{database.name}, {LOOP}, to {FIRST}",
        Ratio.of(predecessor[FIRST], ours[FIRST]),
        at_least=REQUIRED_TO_LOOP,
    )


async def _steps(database: Database, sync: Sync, size: int) -> dict[str, float]:
    """Sync into empty tables, then the same, then another order; return the seconds of each."""
    await _empty(database)
    track_ids = _shuffled(size, seed=1)
    orders = {FIRST: track_ids, UNCHANGED: track_ids, SHUFFLED: _shuffled(size, seed=2)}
    return {step: await _timed(database, sync, order) for step, order in orders.items()}


def _shuffled(size: int, seed: int) -> list[str]:
    track_ids = [f"{number:022d}" for number in range(size)]
    random.Random(seed).shuffle(track_ids)
    return track_ids


async def _timed(database: Database, sync: Sync, track_ids: list[str]) -> float:
    seconds, _ = await timed(sync(PLAYLIST, "Focus", track_ids))
    await _check(database, track_ids)
    return seconds


async def _after_small_ones(database: Database, report: Report) -> None:
    """Compare a sync with one whose connection knows the tables as small, plans and statistics."""
    fresh, after = [], []
    async with ours(database) as sync:
        for _ in range(GROWING_ROUNDS):
            await _empty(database)
            fresh.append(await _timed(database, sync, _shuffled(SIZE, seed=1)))
            await _empty(database)
            await _timed(database, sync, _shuffled(SMALL, seed=1))
            await database.analyze()
            for seed in range(8):
                await _timed(database, sync, _shuffled(SMALL, seed))
            after.append(await _timed(database, sync, _shuffled(SIZE, seed=2)))
    what = f"{database.name}, {SIZE:,} tracks on a connection that synced small playlists before"
    report.require(what, Ratio.of(after, fresh), at_most=REQUIRED_AFTER_SMALL)


async def _grow(database: Database, report: Report) -> None:
    """Show the time of each step against the size."""
    found: dict[int, Seconds] = {size: {step: [] for step in STEPS} for size in SIZES}
    async with ours(database) as sync:
        await _steps(database, sync, SMALL)
        for _ in range(GROWING_ROUNDS):
            for size in SIZES:
                for step, seconds in (await _steps(database, sync, size)).items():
                    found[size][step].append(seconds / size)
    report.table(
        f"{database.name}, {OURS}, microseconds a track (min-max)",
        ["tracks", *STEPS],
        [[f"{size:,}", *map(_spread, steps.values())] for size, steps in found.items()],
    )
    for step in (FIRST, UNCHANGED):
        ratio = Ratio.of(found[max(SIZES)][step], found[SIZE][step])
        what = f"{database.name}, {step}, a track of {max(SIZES):,} to one of {SIZE:,}"
        report.require(what, ratio, at_most=REQUIRED_GROWTH)


def _spread(seconds: Sequence[float]) -> str:
    figures = (median(seconds), min(seconds), max(seconds))
    return "{:.1f} ({:.1f}-{:.1f})".format(*(figure * 1e6 for figure in figures))


async def _empty(database: Database) -> None:
    async with database.sessions.begin() as db:
        await crud.clear_all_playlists_and_tracks(db)
    await database.vacuum()


async def _check(database: Database, track_ids: list[str]) -> None:
    """Compare what the tables hold with what they should."""
    entries = select(PlaylistTrack.track_id).order_by(PlaylistTrack.position)
    async with database.sessions() as db:
        held = list(await db.scalars(entries))
        playlists = list(await db.scalars(select(Playlist.id)))
        tracks = set(await db.scalars(select(Track.id)))
    if (held, playlists, tracks) != (track_ids, [PLAYLIST], set(track_ids)):
        raise AssertionError("the sync did not leave what was asked for")
