"""The sync of playlists: what it costs, and what every outcome of it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.support.factories import (
    Sessions,
    add_playlist,
    all_rows,
    ids,
    playlist_data,
    statements_sent,
    stored_track_ids,
)
from zotify_async_crud import crud
from zotify_async_crud.models import Playlist, PlaylistTrack, Track
from zotify_async_crud.schemas import SyncResult

LONG: Final = [f"track-{number:05}" for number in range(10_000)]
HALF: Final = len(LONG) // 2


async def rows_written(db: AsyncSession) -> int:
    """Return how many rows this session's connection has written, as the database counts them."""
    if db.get_bind().dialect.name == "sqlite":
        return int((await db.execute(text("SELECT total_changes()"))).scalar_one())
    counts = "sum(n_tup_ins + n_tup_upd + n_tup_del)"
    counted = await db.execute(text(f"SELECT {counts} FROM pg_stat_xact_user_tables"))
    return int(counted.scalar_one())


async def written_by_sync(sessions: Sessions, track_ids: list[str], **data: str) -> int:
    """Sync a playlist, which is read back as it is to be, and return how many rows that wrote."""
    async with sessions.begin() as db:
        before = await rows_written(db)
        await crud.sync_playlists(db, [playlist_data(track_ids=track_ids, **data)])
        written = await rows_written(db) - before
    assert await stored_track_ids(sessions) == track_ids
    return written


# what it costs


CHANGES: Final[dict[str, tuple[list[str], int]]] = {
    "none": (LONG, 0),
    "one more at the front": (["new", *LONG], 2),
    "one more in the middle": ([*LONG[:HALF], "new", *LONG[HALF:]], 2),
    "one more at the end": ([*LONG, "new"], 2),
    "a duplicate": ([*LONG, LONG[0]], 1),
    "one less": ([*LONG[:HALF], *LONG[HALF + 1 :]], 1),
    "another one": ([*LONG[:HALF], "new", *LONG[HALF + 1 :]], 3),
    "the last comes first": ([LONG[-1], *LONG[:-1]], 1),
    "the first comes last": ([*LONG[1:], LONG[0]], 1),
    "two change places": ([LONG[-1], *LONG[1:-1], LONG[0]], 2),
    "a thousand come first": ([*LONG[-1000:], *LONG[:-1000]], 1_000),
    "the other way round": (LONG[::-1], len(LONG) - 1),
    "shuffled": (random.Random(1).sample(LONG, len(LONG)), len(LONG) - 1),
    "all gone": ([], len(LONG)),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_sync_writes_what_changed_and_no_more(sessions: Sessions, change: str) -> None:
    """Of ten thousand; a new track is a row of its own, and a move is one."""
    await add_playlist(sessions, track_ids=LONG)
    track_ids, most = CHANGES[change]

    written = await written_by_sync(sessions, track_ids)

    assert written <= most
    assert await written_by_sync(sessions, track_ids) == 0


async def test_a_new_name_or_snapshot_is_one_row(sessions: Sessions) -> None:
    """Its tracks stay untouched."""
    await add_playlist(sessions, track_ids=LONG)
    for data in ({"name": "Relax"}, {"name": "Relax", "snapshot_id": "s1"}):
        assert await written_by_sync(sessions, LONG, **data) == 1
        assert await written_by_sync(sessions, LONG, **data) == 0


def _edited(track_ids: list[str], edits: int, chance: random.Random) -> list[str]:
    """Return the list after as many insertions, removals, moves and replacements."""
    edited = list(track_ids)
    for _ in range(edits):
        place, other = chance.randrange(len(edited)), chance.randrange(len(edited))
        match chance.randrange(4):
            case 0:
                edited.insert(place, f"new-{chance.randrange(100)}")
            case 1:
                del edited[place]
            case 2:
                edited.insert(other, edited.pop(place))
            case _:
                edited[place] = chance.choice(edited)
    return edited


@settings(
    max_examples=8,
    # the database is the same for all examples, and each goes on from what the one before left
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(seed=st.integers(0, 2**32), different=st.sampled_from([50, 400, 5_000]))
async def test_many_edits_write_two_rows_each_at_most(
    sessions: Sessions, seed: int, different: int
) -> None:
    """Also where tracks stand there many times; the tracks that are new are not counted."""
    chance = random.Random(seed)
    track_ids = [f"t{chance.randrange(different)}" for _ in range(3_000)]
    await add_playlist(sessions, track_ids=track_ids)
    async with sessions.begin() as db:
        for number in range(100):
            await crud.get_or_create_track(db, f"new-{number}")

    for edits in (1, 10, 1_000):
        track_ids = _edited(track_ids, edits, chance)
        assert await written_by_sync(sessions, track_ids) <= 2 * edits


PLACES: Final[dict[str, Callable[[int], int]]] = {
    "at the front": lambda _: 0,
    "after the first": lambda _: 1,
    "in the middle": lambda length: length // 2,
    "before the last": lambda length: length - 1,
}


@pytest.mark.parametrize("place", PLACES)
async def test_a_gap_that_is_used_up_is_made_anew(sessions: Sessions, place: str) -> None:
    """A hundred insertions beside each other, each in a sync of its own, move few other rows."""
    track_ids = LONG[:100]
    await add_playlist(sessions, track_ids=track_ids)

    written = 0
    for number in range(100):
        at = PLACES[place](len(track_ids))
        track_ids = [*track_ids[:at], f"new-{number}", *track_ids[at:]]
        written += await written_by_sync(sessions, track_ids)

    assert written <= 4 * 100  # of those, a track and an entry each


async def test_positions_at_the_end_of_what_a_column_holds_are_spread_anew(
    sessions: Sessions,
) -> None:
    """Whoever wrote them."""
    await add_playlist(sessions, track_ids=["a", "b"])
    async with sessions.begin() as db:
        for track_id, position in (("a", -(2**63)), ("b", 2**63 - 1)):
            entry = update(PlaylistTrack).where(PlaylistTrack.track_id == track_id)
            await db.execute(entry.values(position=position))

    await add_playlist(sessions, track_ids=["x", "a", "y", "b", "z"])

    assert await stored_track_ids(sessions) == ["x", "a", "y", "b", "z"]


async def test_neither_playlists_nor_tracks_add_statements(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """One playlist of one track, or a hundred of three hundred."""
    counts = []
    for playlists, tracks in ((1, 1), (100, 300)):
        synced = [
            playlist_data(f"{playlists}-{number}", LONG[number : number + tracks])
            for number in range(playlists)
        ]
        changed = [
            playlist_data(each.id, ["new", *each.track_ids[::-1][1:]], "Renamed") for each in synced
        ]
        for version in (synced, synced, changed):
            with statements_sent(engine) as sent:
                async with sessions.begin() as db:
                    await crud.sync_playlists(db, version)
            counts.append(len(sent))

    assert counts[:3] == pytest.approx(counts[3:], abs=2)  # one track alone does not move
    assert max(counts) <= 12


async def test_a_playlist_with_the_snapshot_it_has_is_not_read(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """Spotify says by it that nothing changed."""
    synced = [playlist_data(snapshot_id="s1"), playlist_data("q", snapshot_id="t1")]
    async with sessions.begin() as db:
        await crud.sync_playlists(db, synced)

    with statements_sent(engine) as sent:
        async with sessions.begin() as db:
            result = await crud.sync_playlists(db, synced)

    assert result == SyncResult(playlists_unchanged=2)
    assert not [statement for statement, _ in sent if "FROM playlist_tracks" in statement]


# what comes of it


async def test_a_sync_tells_what_it_changed(sessions: Sessions) -> None:
    """In playlists, in tracks and in the places that these have."""
    async with sessions.begin() as db:
        first = await crud.sync_playlists(
            db,
            [
                playlist_data("kept", ["a", "b"]),
                playlist_data("changed", ["a", "b", "c", "a"]),
                playlist_data("renamed", ["a"]),
                playlist_data("dropped", ["x"]),
            ],
        )
        second = await crud.sync_playlists(
            db,
            [
                playlist_data("kept", ["a", "b"]),
                playlist_data("changed", ["b", "c", "a", "new"]),
                playlist_data("renamed", ["a"], "Other"),
                playlist_data("created", []),
            ],
            remove_others=True,
        )

    assert first == SyncResult(playlists_created=4, tracks_created=4, entries_added=8)
    assert second == SyncResult(
        playlists_created=1,
        playlists_updated=2,
        playlists_unchanged=1,
        playlists_removed=1,
        tracks_created=1,
        entries_added=1,
        entries_removed=1,
    )
    assert await stored_track_ids(sessions, "changed") == ["b", "c", "a", "new"]
    async with sessions() as db:
        assert await db.get(Playlist, "dropped") is None
        assert await db.get(Track, "x") is not None


async def test_what_syncs_changed_adds_up(sessions: Sessions) -> None:
    """Of the parts of a large import."""
    results = []
    for track_ids in (["a", "b", "c"], ["c", "a", "b"], ["b"]):
        async with sessions.begin() as db:
            results.append(await crud.sync_playlists(db, [playlist_data(track_ids=track_ids)]))

    assert sum(results, SyncResult()) == SyncResult(
        playlists_created=1,
        playlists_updated=2,
        tracks_created=3,
        entries_added=3,
        entries_moved=1,
        entries_removed=2,
    )


@pytest.mark.parametrize(
    ("snapshots", "track_ids"),
    [
        (("s1", "s1"), ["a"]),
        (("s1", "s2"), ["b"]),
        ((None, None), ["b"]),
        (("s1", None), ["b"]),
        ((None, "s1"), ["b"]),
    ],
)
async def test_a_playlist_is_taken_for_unchanged_by_its_snapshot_alone(
    sessions: Sessions, snapshots: tuple[str | None, str | None], track_ids: list[str]
) -> None:
    """The caller vouches for it; without one the tracks are compared."""
    first, second = snapshots
    async with sessions.begin() as db:
        await crud.sync_playlists(db, [playlist_data("p", ["a"], snapshot_id=first)])
        await crud.sync_playlists(db, [playlist_data("p", ["b"], snapshot_id=second)])

    assert await stored_track_ids(sessions) == track_ids


async def test_tracks_of_an_unknown_version_are_of_no_snapshot(sessions: Sessions) -> None:
    """Or a later sync would take for stored what is not; tracks that stay keep theirs."""
    synced = playlist_data("p", ["a", "b"], snapshot_id="s1")
    for track_ids, snapshot_id in ((["a", "b"], "s1"), (["b"], None)):
        async with sessions.begin() as db:
            await crud.sync_playlists(db, [synced])
            await crud.create_or_update_playlist(db, "p", "Focus", track_ids)
            stored = await db.scalar(select(Playlist.snapshot_id))
            assert stored == snapshot_id
            await crud.sync_playlists(db, [synced])
        assert await stored_track_ids(sessions) == ["a", "b"]


async def test_no_playlists_are_nothing_to_do(engine: AsyncEngine, sessions: Sessions) -> None:
    """Unless all others are to go."""
    await add_playlist(sessions)
    async with sessions.begin() as db:
        with statements_sent(engine) as sent:
            assert await crud.sync_playlists(db, []) == SyncResult()
        assert sent == []
        assert await crud.sync_playlists(db, [], remove_others=True) == SyncResult(
            playlists_removed=1
        )

    rows = await all_rows(sessions)
    assert (rows["playlists"], rows["playlist_tracks"]) == ([], [])


async def test_playlists_that_were_removed_are_gone_for_the_session_as_well(
    sessions: Sessions,
) -> None:
    """So that it can add the same ids anew."""
    await add_playlist(sessions)
    async with sessions.begin() as db:
        playlist = await db.get_one(Playlist, "p")
        await crud.sync_playlists(db, [], remove_others=True)
        assert playlist not in db
        assert ids(await crud.create_or_update_playlist(db, "p", "Again", ["b"])) == ["b"]


@settings(
    max_examples=100,
    # the database is the same for all examples, and each replaces what the one before wrote
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    versions=st.lists(
        st.dictionaries(
            st.sampled_from("pqr"), st.lists(st.sampled_from("abcdef"), max_size=12), min_size=1
        ),
        min_size=2,
        max_size=4,
    )
)
@example(versions=[{"p": ["a", "b"]}, {"p": ["b", "a"], "q": []}])
async def test_playlists_are_always_what_the_last_sync_made_them(
    sessions: Sessions, versions: list[dict[str, list[str]]]
) -> None:
    """Any of them after any other, and nothing else is there."""
    for version in versions:
        async with sessions.begin() as db:
            given_now = [playlist_data(key, track_ids) for key, track_ids in version.items()]
            await crud.sync_playlists(db, given_now, remove_others=True)
        async with sessions() as db:
            stored = (await db.scalars(select(Playlist))).unique()
            assert {playlist.id: ids(playlist) for playlist in stored} == version
            entries = await db.scalars(select(PlaylistTrack))
            assert len(entries.unique().all()) == sum(map(len, version.values()))


async def test_a_sync_of_many_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """The caller owns the transaction."""
    await add_playlist(sessions, "p", track_ids=["a", "b", "c"])
    await add_playlist(sessions, "q", track_ids=["a"])
    before = await all_rows(sessions)

    async with sessions() as db:
        await crud.sync_playlists(
            db, [playlist_data("p", ["c", "a", "x"]), playlist_data("new")], remove_others=True
        )
        await db.rollback()

    assert await all_rows(sessions) == before
