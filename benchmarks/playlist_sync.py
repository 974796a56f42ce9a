"""One playlist sync in a constant number of statements against one track at a time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import raiseload

from benchmarks.databases import BOTH, Database, Databases
from benchmarks.figures import Ratio, timed
from benchmarks.report import Report
from zotify_async_crud import crud
from zotify_async_crud.models import Playlist, PlaylistTrack, Track

Sync = Callable[[AsyncSession, str, str, list[str]], Awaitable[Playlist]]

PLAYLIST: Final = "37i9dQZF1DXcBWIGoYBM5M"
REQUIRED: Final = 50.0
REQUIRED_AFTER_SMALL: Final = 2.0
"""What a connection has done before may make a sync so many times slower."""
SIZES: Final = (10, 100, 1_000, 10_000, 40_000)
ROUNDS: Final = 5
GROWING_ROUNDS: Final = 3

LOOP_ROUNDS: Final = {1_000: 3, 10_000: 1}
"""How often the loop runs with so many ids; where it runs once, it runs between two of ours."""


async def run(databases: Databases, report: Report) -> None:
    """Compare the first sync and the next one, and show how the time grows with the size."""
    rows = []
    for name in BOTH:
        async with databases.fresh(name) as database:
            await database.keep_statistics_away()
            for size, rounds in LOOP_ROUNDS.items():
                rows += await _compare(database, size, rounds, report)
    report.table(
        "create_or_update_playlist against SELECT, INSERT, COMMIT and refresh for each track",
        ["database, sync", "ids", "ours ms", "loop ms", "rounds ours/loop", "ratio (min-max)"],
        rows,
    )
    grown = []
    for name in BOTH:
        async with databases.fresh(name) as database:
            await database.keep_statistics_away()
            await _after_small_ones(database, report)
        async with databases.fresh(name) as database:
            await database.keep_statistics_away()
            grown += await _grow(database)
    report.table(
        "The time of the first sync against the size",
        ["database", "ids", "median ms", "min-max ms", "µs per id", "rounds"],
        grown,
    )


async def _compare(database: Database, size: int, loops: int, report: Report) -> list[list[object]]:
    """Run ours and the loop by turns, each into empty tables and then over what is there."""
    ours: list[tuple[float, float]] = []
    loop: list[tuple[float, float]] = []
    await _first_and_next(database, _ours, 10)  # connections and compiled statements are there
    await _first_and_next(database, _loop, 10)
    for number in range(ROUNDS):
        ours.append(await _first_and_next(database, _ours, size))
        if number >= (ROUNDS - loops) // 2 and len(loop) < loops:
            loop.append(await _first_and_next(database, _loop, size))
    rows: list[list[object]] = []
    for place, kind in enumerate(("first sync", "next sync")):
        quick, slow = ([pair[place] for pair in pairs] for pairs in (ours, loop))
        ratio = _ratio(slow, quick)
        shown = (f"{median(figures) * 1e3:,.0f}" for figures in (quick, slow))
        rows.append([f"{database.name}, {kind}", f"{size:,}", *shown, f"{ROUNDS}/{loops}", ratio])
        if kind == "first sync" and size == max(LOOP_ROUNDS):
            report.require(f"{database.name}, first sync of {size:,} ids", ratio, at_least=REQUIRED)
    return rows


def _ratio(slow: list[float], quick: list[float]) -> Ratio:
    """Compare each round of ours with the loop's median: they are not equally many."""
    return Ratio.of([median(slow)], quick)


async def _first_and_next(database: Database, sync: Sync, size: int) -> tuple[float, float]:
    """Sync into empty tables, then the same tracks in another order; return the seconds of each."""
    await _empty(database)
    first, following = await _syncs(database, sync, size, ["Focus", "Deep Focus"])
    return first, following


async def _syncs(database: Database, sync: Sync, size: int, names: list[str]) -> list[float]:
    """Sync one playlist under each name, in another order each time; return the seconds of each."""
    track_ids = [f"{number:022d}" for number in range(size)]
    shuffle = random.Random(size).shuffle
    seconds = []
    for name in names:
        shuffle(track_ids)
        async with database.sessions(autoflush=False) as db:
            took, playlist = await timed(sync(db, PLAYLIST, name, track_ids))
        await _check(database, playlist, name, track_ids)
        seconds.append(took)
    return seconds


async def _after_small_ones(database: Database, report: Report) -> None:
    """Compare a sync with one whose connection knows the tables as small, plans and statistics."""
    size = max(LOOP_ROUNDS)
    fresh, after = [], []
    for _ in range(GROWING_ROUNDS):
        await _empty(database)
        fresh += await _syncs(database, _ours, size, ["Focus"])
        await _empty(database)
        await _syncs(database, _ours, SIZES[0], ["Focus"])
        await database.analyze()
        await _syncs(database, _ours, SIZES[0], [f"Focus {number}" for number in range(8)])
        after += await _syncs(database, _ours, size, ["Deep Focus"])
    what = f"{database.name}, {size:,} ids on a connection that synced small playlists before"
    report.require(what, Ratio.of(after, fresh), at_most=REQUIRED_AFTER_SMALL)


async def _ours(
    db: AsyncSession, playlist_id: str, playlist_name: str, track_ids: list[str]
) -> Playlist:
    playlist = await crud.create_or_update_playlist(db, playlist_id, playlist_name, track_ids)
    await db.commit()
    return playlist


async def _loop(
    db: AsyncSession, playlist_id: str, playlist_name: str, track_ids: list[str]
) -> Playlist:
    """Sync as the library's predecessor did, each call awaited."""
    playlist = await db.get(Playlist, playlist_id, options=[raiseload(Playlist.entries)])
    if playlist is None:
        playlist = Playlist(id=playlist_id)
        db.add(playlist)
    playlist.name = playlist_name
    tracks = [await _get_or_create_track(db, track_id) for track_id in track_ids]
    await db.flush()
    await db.execute(delete(PlaylistTrack).where(PlaylistTrack.playlist_id == playlist_id))
    for position, track in enumerate(tracks):
        db.add(PlaylistTrack(playlist_id=playlist_id, position=position, track_id=track.id))
    await db.commit()
    read_back = select(Playlist).where(Playlist.id == playlist_id)
    found = await db.execute(read_back, execution_options={"populate_existing": True})
    return found.unique().scalar_one()


async def _get_or_create_track(db: AsyncSession, track_id: str) -> Track:
    track = await db.get(Track, track_id)
    if track is None:
        track = Track(id=track_id)
        db.add(track)
        await db.commit()
        await db.refresh(track)
    return track


async def _grow(database: Database) -> list[list[object]]:
    """Time the first sync of each size."""
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    await _syncs(database, _ours, SIZES[0], ["Focus"])
    for _ in range(GROWING_ROUNDS):
        for size in SIZES:
            await _empty(database)
            seconds[size] += await _syncs(database, _ours, size, ["Focus"])
    return [
        [
            database.name,
            f"{size:,}",
            f"{median(figures) * 1e3:,.1f}",
            f"{min(figures) * 1e3:,.1f}-{max(figures) * 1e3:,.1f}",
            f"{median(figures) / size * 1e6:,.0f}",
            len(figures),
        ]
        for size, figures in seconds.items()
    ]


async def _empty(database: Database) -> None:
    async with database.sessions.begin() as db:
        await crud.clear_all_playlists_and_tracks(db)
    await database.vacuum()


async def _check(database: Database, playlist: Playlist, name: str, track_ids: list[str]) -> None:
    """Compare what was returned and what the tables hold with what they should."""
    entries = select(PlaylistTrack.track_id).order_by(PlaylistTrack.position)
    async with database.sessions() as db:
        held = list(await db.scalars(entries))
        names = list(await db.scalars(select(Playlist.name)))
        tracks = list(await db.scalars(select(Track.id).order_by(Track.id)))
    if (
        [track.id for track in playlist.tracks] != track_ids
        or playlist.name != name
        or held != track_ids
        or names != [name]
        or tracks != sorted(track_ids)
    ):
        raise AssertionError("the sync did not leave what was asked for")
