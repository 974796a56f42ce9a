"""Playlists: every outcome of every coroutine, with one caller at a time."""

from __future__ import annotations

import contextlib
from typing import Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import defer, lazyload, raiseload

from tests.support.factories import (
    Sessions,
    add_job,
    add_playlist,
    add_some_of_everything,
    add_token,
    all_rows,
    ids,
    short,
    statements_sent,
    stored_track_ids,
)
from zotify_async_crud import crud, database
from zotify_async_crud.errors import TracksNotLoaded
from zotify_async_crud.models import Playlist, PlaylistTrack, Track

# create_or_update_playlist


@pytest.mark.parametrize(
    "track_ids", [[], ["a"], ["c", "a", "b"], ["a", "b", "a", "a", "c", "b"]], ids=str
)
async def test_a_playlist_keeps_the_order_and_the_duplicates_of_its_tracks(
    sessions: Sessions, track_ids: list[str]
) -> None:
    """In the object that comes back, and in what any session reads later."""
    async with sessions.begin() as db:
        playlist = await crud.create_or_update_playlist(db, "p", "Focus", track_ids)

    assert (playlist.id, playlist.name, ids(playlist)) == ("p", "Focus", track_ids)
    assert await stored_track_ids(sessions) == track_ids


@pytest.mark.parametrize("track_ids", [["b", "c"], ["b", "a"], ["z"] * 5, []], ids=str)
async def test_an_update_renames_the_playlist_and_replaces_its_tracks_whole(
    sessions: Sessions, track_ids: list[str]
) -> None:
    """Longer, shorter, reordered or empty: nothing of the list before stays."""
    await add_playlist(sessions, "other", track_ids=["a", "b"])
    await add_playlist(sessions, "p", "Focus", ["a", "b", "a"])

    async with sessions.begin() as db:
        playlist = await crud.create_or_update_playlist(db, "p", "Relax", track_ids)

    assert (playlist.name, ids(playlist)) == ("Relax", track_ids)
    assert await stored_track_ids(sessions) == track_ids
    assert await stored_track_ids(sessions, "other") == ["a", "b"]


async def test_a_playlist_may_have_no_name(sessions: Sessions) -> None:
    """Spotify allows an empty name; renaming to it works as well."""
    assert (await add_playlist(sessions, "new", "")).name == ""
    await add_playlist(sessions, "p", "Focus")
    assert (await add_playlist(sessions, "p", "")).name == ""


async def test_tracks_keep_their_names_through_syncs(sessions: Sessions) -> None:
    """A sync knows ids only and must not forget what is known of a track."""
    async with sessions.begin() as db:
        track = await crud.get_or_create_track(db, "a", "Named")
        track.artist = "Artist"

    playlist = await add_playlist(sessions, track_ids=["b", "a"])
    await add_playlist(sessions, track_ids=["a"])

    assert [track.name for track in playlist.tracks] == [None, "Named"]
    async with sessions() as db:
        kept = await db.get_one(Track, "a")
        assert (kept.name, kept.artist) == ("Named", "Artist")
        assert await db.get(Track, "b") is not None


async def test_an_update_shows_in_the_playlist_that_the_session_has_loaded(
    sessions: Sessions,
) -> None:
    """The very object that the caller holds, within one transaction and after another's commit."""
    await add_playlist(sessions, "p", "Focus", ["a", "b", "c"])
    async with sessions() as db:
        loaded = await db.get_one(Playlist, "p")

        updated = await crud.create_or_update_playlist(db, "p", "Relax", ["c", "c"])
        assert updated is loaded
        assert (loaded.name, ids(loaded)) == ("Relax", ["c", "c"])
        await db.commit()

        await add_playlist(sessions, "p", "Sport", ["d"])
        again = await crud.get_playlist(db, "p")
        assert again is loaded
        assert (loaded.name, ids(loaded)) == ("Sport", ["d"])


async def test_a_track_that_stands_twice_is_one_object(sessions: Sessions) -> None:
    """Two places, one track."""
    playlist = await add_playlist(sessions, track_ids=["a", "b", "a"])

    first, _, last = playlist.tracks
    assert first is last


async def test_a_playlist_of_any_query_can_read_its_tracks(sessions: Sessions) -> None:
    """Also after the session is closed: no query of its own comes later."""
    await add_playlist(sessions, "p", track_ids=["b", "a"])
    await add_playlist(sessions, "q", track_ids=[])

    async with sessions() as db:
        got = await db.get_one(Playlist, "p")
        selected = (await db.scalars(select(Playlist).order_by(Playlist.id))).unique().all()

    assert ids(got) == ["b", "a"]
    assert [ids(playlist) for playlist in selected] == [["b", "a"], []]


@pytest.mark.parametrize(
    "option",
    [raiseload(Playlist.entries), lazyload(Playlist.entries), defer(Playlist.name).raiseload("*")],
    ids=["raiseload", "lazyload", "raiseload of all"],
)
async def test_a_playlist_loaded_without_its_tracks_says_so(
    sessions: Sessions, option: object
) -> None:
    """An empty list would be a lie, and SQLAlchemy's own errors a riddle."""
    await add_playlist(sessions)
    async with sessions() as db:
        query = select(Playlist).options(option)  # type: ignore[arg-type]
        playlist = (await db.scalars(query)).unique().one()

        with pytest.raises(TracksNotLoaded, match="get_playlist"):
            _ = playlist.tracks
        with_tracks = await crud.get_playlist(db, "p")

    assert with_tracks is playlist
    assert ids(playlist) == ["a", "b"]


async def test_a_playlist_that_expired_or_was_never_stored_has_no_tracks_to_read(
    sessions: Sessions,
) -> None:
    """Reading them must not send SQL out of a property."""
    await add_playlist(sessions)
    with pytest.raises(TracksNotLoaded):
        _ = Playlist(id="new", name="New").tracks

    async with sessions() as db:
        playlist = await db.get_one(Playlist, "p")
        db.expire(playlist)
        with pytest.raises(TracksNotLoaded):
            _ = playlist.tracks


async def test_the_number_of_statements_does_not_grow_with_the_playlist(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """None, one or ten thousand: the list goes as one parameter."""
    counts = []
    for number in (0, 1, 10_000):
        track_ids = [f"track-{index % 9_000}" for index in range(number)]
        for _ in range(2):  # once to create and once to replace
            with statements_sent(engine) as sent:
                await add_playlist(sessions, f"p{number}", track_ids=track_ids)
            counts.append(len(sent))

    assert counts[2:] == [counts[2], counts[3]] * 2
    assert max(counts) <= 9
    assert await stored_track_ids(sessions, "p10000") == track_ids


async def test_a_playlist_may_be_longer_than_a_statement_may_have_parameters(
    sessions: Sessions,
) -> None:
    """PostgreSQL's limit is 32,767; no list's length decides."""
    track_ids = [f"track-{index % 35_000:05}" for index in range(40_000)]

    async with sessions() as db:
        playlist = await crud.create_or_update_playlist(db, "p", "Long", track_ids)

    assert ids(playlist) == track_ids


async def test_a_sync_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """A new playlist, and the replacement of an old one."""
    await add_playlist(sessions, "old")
    before = await all_rows(sessions)

    async with sessions() as db:
        await crud.create_or_update_playlist(db, "new", "New", ["x", "y"])
        await crud.create_or_update_playlist(db, "old", "Changed", ["z"])
        await db.rollback()

    assert await all_rows(sessions) == before


# Characters that JSON, arrays, quoting and collations treat specially are as good as any.
TRACK_ID: Final = st.one_of(
    st.sampled_from(
        ["a", "A", "b", "ä", "a\u0308", '"', "\\", "'", "{a,b}", "NULL", "[]", " ", "\n"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=255),
)


@settings(
    max_examples=50,
    # the database is the same for all examples, and each replaces what the one before wrote
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(first=st.lists(TRACK_ID, max_size=30), second=st.lists(TRACK_ID, max_size=30))
@example(first=["b", "a", "b"], second=["\x01", "\x1f", "\x7f", "\uffff", "\U0001f4be"])
async def test_any_list_of_ids_comes_back_as_it_was_and_is_replaced_by_any_other(
    sessions: Sessions, first: list[str], second: list[str]
) -> None:
    """Order, duplicates and every character are kept."""
    for track_ids in (first, second, [*second, *first, *second]):
        playlist = await add_playlist(sessions, track_ids=track_ids)
        assert ids(playlist) == track_ids
        assert await stored_track_ids(sessions) == track_ids


# get_playlist


async def test_a_playlist_is_found_by_its_id(sessions: Sessions) -> None:
    """With its tracks."""
    await add_playlist(sessions, "p", "Focus", ["b", "a"])
    await add_playlist(sessions, "q", "Other", ["c"])

    async with sessions() as db:
        playlist = await crud.get_playlist(db, "p")

    assert playlist is not None
    assert (playlist.id, playlist.name, ids(playlist)) == ("p", "Focus", ["b", "a"])


@pytest.mark.parametrize(
    "playlist_id", ["unknown", "P", "", "\0", "\udfff", "x" * 10_000], ids=short
)
async def test_an_id_that_no_playlist_has_finds_nothing(
    sessions: Sessions, playlist_id: str
) -> None:
    """Any string is a fair question, and the transaction goes on after it."""
    await add_playlist(sessions, "p")

    async with sessions() as db:
        assert await crud.get_playlist(db, playlist_id) is None
        assert await crud.get_playlist(db, "p") is not None


# list_playlists


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 1_000])
async def test_pages_of_playlists_hold_each_once_in_the_order_of_their_ids(
    sessions: Sessions, limit: int
) -> None:
    """Whatever stands in the ids; the last page says that it is the last."""
    names = ["a b", "B", "a", "ä", "💾", "p\n", "="]
    for name in names:
        await add_playlist(sessions, name)

    pages: list[list[str]] = []
    after: str | None = None
    async with sessions() as db:
        while not pages or after:
            page = await crud.list_playlists(db, limit=limit, after=after)
            pages.append([playlist.id for playlist in page.items])
            after = page.after

    assert [name for page in pages for name in page] == sorted(names)
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert 0 < len(pages[-1]) <= limit


async def test_playlists_that_come_and_go_between_two_pages_disturb_none(
    sessions: Sessions,
) -> None:
    """The next page begins after an id, which need not be there any more."""
    for name in ("b", "d", "f"):
        await add_playlist(sessions, name)
    async with sessions.begin() as db:
        page = await crud.list_playlists(db, limit=2)
        await crud.delete_playlist(db, "d")
    for name in ("a", "e"):
        await add_playlist(sessions, name)

    async with sessions() as db:
        following = await crud.list_playlists(db, limit=2, after=page.after)

    assert [playlist.id for playlist in following.items] == ["e", "f"]
    assert following.after is None


async def test_a_playlist_of_a_page_has_no_tracks_until_it_is_read(sessions: Sessions) -> None:
    """What was not asked for must not look empty, and costs no statement for each."""
    await add_playlist(sessions)
    async with sessions() as db:
        (playlist,) = (await crud.list_playlists(db, limit=10)).items
        with pytest.raises(TracksNotLoaded):
            _ = playlist.tracks
        assert await crud.get_playlist(db, "p") is playlist
        assert ids(playlist) == ["a", "b"]


# stream_playlist_tracks


@pytest.mark.parametrize("count", [0, 1, 999, 1_000, 1_001, 2_500])
async def test_a_stream_yields_the_tracks_in_order(sessions: Sessions, count: int) -> None:
    """However many are read at a time, and duplicates as often as they stand there."""
    track_ids = [f"track-{number % 700}" for number in range(count)]
    await add_playlist(sessions, "other", track_ids=["x"])
    await add_playlist(sessions, track_ids=track_ids)

    async with sessions() as db:
        streamed = [track.id async for track in crud.stream_playlist_tracks(db, "p")]

    assert streamed == track_ids


async def test_a_stream_is_of_one_version(url: str, sessions: Sessions) -> None:
    """What another transaction replaces meanwhile does not come into it."""
    track_ids = [f"track-{number}" for number in range(5_000)]
    await add_playlist(sessions, track_ids=track_ids)

    engine = database.create_engine(url, read_only=True)
    async with database.create_session_factory(engine)() as db:
        streamed = []
        async for track in crud.stream_playlist_tracks(db, "p"):
            streamed.append(track.id)
            if len(streamed) == 1:
                await add_playlist(sessions, track_ids=track_ids[::-1])
    await engine.dispose()

    assert streamed == track_ids
    assert await stored_track_ids(sessions) == track_ids[::-1]


async def test_a_stream_may_be_closed_early_and_the_session_goes_on(sessions: Sessions) -> None:
    """Its cursor is closed with it, and holds no lock."""
    await add_playlist(sessions, track_ids=[f"track-{number}" for number in range(5_000)])

    async with sessions() as db:
        async with contextlib.aclosing(crud.stream_playlist_tracks(db, "p")) as tracks:
            assert (await anext(tracks)).id == "track-0"
        await crud.create_or_update_playlist(db, "p", "Focus", ["a"])
        await db.commit()

    assert await stored_track_ids(sessions) == ["a"]


@pytest.mark.parametrize("playlist_id", ["unknown", "", "\0", "x" * 10_000], ids=short)
async def test_an_unknown_playlist_streams_nothing(sessions: Sessions, playlist_id: str) -> None:
    """Any string is a fair question."""
    await add_playlist(sessions)
    async with sessions() as db:
        assert [track async for track in crud.stream_playlist_tracks(db, playlist_id)] == []


# delete_playlist


async def test_a_playlist_is_deleted_with_its_places_and_no_tracks(sessions: Sessions) -> None:
    """It tells whether there was one."""
    await add_playlist(sessions, "p", track_ids=["a", "b", "a"])
    await add_playlist(sessions, "q", track_ids=["a"])
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        playlist = await db.get_one(Playlist, "p")
        assert await crud.delete_playlist(db, "p") is True
        assert playlist not in db
        assert await crud.delete_playlist(db, "p") is False

    after = await all_rows(sessions)
    assert after == {
        **before,
        "playlists": [row for row in before["playlists"] if row[0] == "q"],
        "playlist_tracks": [row for row in before["playlist_tracks"] if row[0] == "q"],
    }


@pytest.mark.parametrize("playlist_id", ["unknown", "", "\0", "x" * 10_000], ids=short)
async def test_to_delete_what_is_not_there_is_no_error(
    sessions: Sessions, playlist_id: str
) -> None:
    """Any string is a fair question."""
    await add_playlist(sessions)
    before = await all_rows(sessions)
    async with sessions.begin() as db:
        assert await crud.delete_playlist(db, playlist_id) is False
    assert await all_rows(sessions) == before


async def test_a_deletion_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """The caller owns the transaction."""
    await add_playlist(sessions)
    before = await all_rows(sessions)
    async with sessions() as db:
        await crud.delete_playlist(db, "p")
        await db.rollback()
    assert await all_rows(sessions) == before


# clear_all_playlists_and_tracks


async def test_clearing_deletes_playlists_and_tracks_and_nothing_else(sessions: Sessions) -> None:
    """Jobs and the token stay, and a second time is no error."""
    await add_some_of_everything(sessions)
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        await crud.clear_all_playlists_and_tracks(db)
        await crud.clear_all_playlists_and_tracks(db)

    after = await all_rows(sessions)
    assert all(before.values())
    assert after == {**before, "playlists": [], "tracks": [], "playlist_tracks": []}


async def test_what_was_cleared_is_gone_for_the_session_that_had_loaded_it(
    sessions: Sessions,
) -> None:
    """The objects leave the session, and the same ids can be stored anew."""
    await add_playlist(sessions, track_ids=["a", "b"])
    async with sessions.begin() as db:
        playlist = await db.get_one(Playlist, "p")
        track = playlist.tracks[0]
        entry = playlist.entries[0]

        await crud.clear_all_playlists_and_tracks(db)

        assert [each for each in (playlist, track, entry) if each in db] == []
        assert await db.get(Playlist, "p") is None
        assert await db.get(Track, "a") is None
        assert await db.get(PlaylistTrack, ("p", 0)) is None
        again = await crud.create_or_update_playlist(db, "p", "Again", ["b"])

    assert ids(again) == ["b"]
    assert await stored_track_ids(sessions) == ["b"]


async def test_clearing_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """The caller owns the transaction."""
    await add_playlist(sessions)
    await add_job(sessions)
    await add_token(sessions)
    before = await all_rows(sessions)

    async with sessions() as db:
        await crud.clear_all_playlists_and_tracks(db)
        await db.rollback()

    assert await all_rows(sessions) == before
