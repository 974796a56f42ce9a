"""Tracks: every outcome of every coroutine, with one caller at a time."""

from __future__ import annotations

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import Sessions, add_playlist, all_rows, statements_sent
from zotify_async_crud import crud
from zotify_async_crud.models import Track
from zotify_async_crud.schemas import TrackData

# get_or_create_track


@pytest.mark.parametrize("name", [None, "", "Bohemian Rhapsody", "雨にぬれても 🌧"])
async def test_a_track_is_created_with_the_name_given(sessions: Sessions, name: str | None) -> None:
    """What is not known of it yet is None."""
    async with sessions.begin() as db:
        created = await crud.get_or_create_track(db, "track", name)

    async with sessions() as db:
        stored = await db.get_one(Track, "track")
    for track in (created, stored):
        assert (track.id, track.name, track.artist, track.album) == ("track", name, None, None)


async def test_a_known_track_is_returned_as_it_is(sessions: Sessions) -> None:
    """A second caller, with or without another name, changes nothing."""
    async with sessions.begin() as db:
        first = await crud.get_or_create_track(db, "track", "Known")
        first.artist, first.album = "Artist", "Album"
    before = await all_rows(sessions)

    async with sessions.begin() as db:
        for name in (None, "Known", "Other", ""):
            track = await crud.get_or_create_track(db, "track", name)
            assert (track.name, track.artist, track.album) == ("Known", "Artist", "Album")

    assert await all_rows(sessions) == before


async def test_a_track_without_a_name_gets_the_first_one_given(sessions: Sessions) -> None:
    """A playlist sync knows ids only; names come later."""
    await add_playlist(sessions, track_ids=["track"])

    async with sessions.begin() as db:
        loaded = await db.get_one(Track, "track")
        assert (await crud.get_or_create_track(db, "track")).name is None
        named = await crud.get_or_create_track(db, "track", "Named")

        assert named is loaded
        assert loaded.name == "Named"
    async with sessions() as db:
        assert (await db.get_one(Track, "track")).name == "Named"


async def test_a_track_shows_what_others_did_since_the_session_loaded_it(
    sessions: Sessions,
) -> None:
    """The session does not answer from memory."""
    async with sessions() as db:
        loaded = await crud.get_or_create_track(db, "track")
        await db.commit()
        async with sessions.begin() as other:
            await crud.get_or_create_track(other, "track", "Named")

        again = await crud.get_or_create_track(db, "track")

    assert again is loaded
    assert again.name == "Named"


async def test_creating_a_track_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """Of a new one and of a name."""
    async with sessions.begin() as db:
        await crud.get_or_create_track(db, "old")
    before = await all_rows(sessions)

    async with sessions() as db:
        await crud.get_or_create_track(db, "new", "New")
        await crud.get_or_create_track(db, "old", "Old")
        await db.rollback()

    assert await all_rows(sessions) == before


# upsert_tracks


async def stored_tracks(sessions: Sessions) -> list[tuple[str | None, ...]]:
    """Return every track, by its id."""
    async with sessions() as db:
        tracks = await db.scalars(select(Track).order_by(Track.id))
        return [(track.id, track.name, track.artist, track.album) for track in tracks]


async def test_tracks_are_created_with_what_is_known_of_them(sessions: Sessions) -> None:
    """In any order."""
    async with sessions.begin() as db:
        changed = await crud.upsert_tracks(
            db,
            [
                TrackData(id="c"),
                TrackData(id="a", name="Name", artist="Artist", album="Album"),
                TrackData(id="b", name=""),
            ],
        )

    assert changed == 3
    assert await stored_tracks(sessions) == [
        ("a", "Name", "Artist", "Album"),
        ("b", "", None, None),
        ("c", None, None, None),
    ]


async def test_news_replaces_what_is_stored_and_none_does_not(sessions: Sessions) -> None:
    """A source that knows less takes nothing away, and what is known already writes nothing."""
    known = TrackData(id="a", name="Name", artist="Artist")
    async with sessions.begin() as db:
        await crud.upsert_tracks(db, [known, TrackData(id="b", name="Other")])
        changes = [
            await crud.upsert_tracks(db, [news, TrackData(id="b")])
            for news in (
                TrackData(id="a"),
                known,
                TrackData(id="a", album="Album"),
                TrackData(id="a", name="New name", artist="Artist", album="Album"),
            )
        ]

    assert changes == [0, 0, 1, 1]
    assert await stored_tracks(sessions) == [
        ("a", "New name", "Artist", "Album"),
        ("b", "Other", None, None),
    ]


async def test_a_name_is_stored_character_by_character(sessions: Sessions) -> None:
    """Also one that holds what lists are taken apart by, beside names that are not known."""
    names = ["\x1f", "\x1e", "\x1fa\x1e\x1f", '{a,"b"}', "\\", "NULL", "", None, "\n\t", "雨 🌧"]
    tracks = [TrackData(id=f"t\x1f{place}", name=name) for place, name in enumerate(names)]
    async with sessions.begin() as db:
        await crud.upsert_tracks(db, tracks)

    async with sessions() as db:
        stored = {track.id: track.name for track in (await db.scalars(select(Track)))}
    assert stored == {track.id: track.name for track in tracks}


async def test_of_a_track_given_twice_the_last_that_is_known_counts(sessions: Sessions) -> None:
    """As if they had been written one after the other."""
    async with sessions.begin() as db:
        changed = await crud.upsert_tracks(
            db,
            [
                TrackData(id="a", name="First", artist="Artist"),
                TrackData(id="a", name="Second"),
                TrackData(id="a", album="Album"),
            ],
        )

    assert changed == 1
    assert await stored_tracks(sessions) == [("a", "Second", "Artist", "Album")]


async def test_any_number_of_tracks_is_one_statement(
    engine: AsyncEngine, sessions: Sessions
) -> None:
    """And none is none."""
    async with sessions.begin() as db:
        for count in (40_000, 40_000, 1, 0):
            tracks = [TrackData(id=f"track-{n}", name=f"{n % 7}") for n in range(count)]
            with statements_sent(engine) as sent:
                assert await crud.upsert_tracks(db, tracks) in {0, 40_000}
            assert len([text for text, _ in sent if "INSERT" in text]) == min(count, 1)


async def test_an_upsert_of_tracks_is_undone_by_the_callers_rollback(sessions: Sessions) -> None:
    """New ones and news."""
    await add_playlist(sessions, track_ids=["a"])
    before = await all_rows(sessions)
    async with sessions() as db:
        await crud.upsert_tracks(db, [TrackData(id="a", name="A"), TrackData(id="b")])
        await db.rollback()
    assert await all_rows(sessions) == before


# delete_orphan_tracks


async def test_tracks_in_no_playlist_are_deleted_a_batch_at_a_time(sessions: Sessions) -> None:
    """Until none is left; those in a playlist stay, and so do jobs for any."""
    await add_playlist(sessions, "p", track_ids=["a", "b", "a"])
    await add_playlist(sessions, "q", track_ids=["c"])
    async with sessions.begin() as db:
        await crud.upsert_tracks(db, [TrackData(id=f"orphan-{number}") for number in range(5)])
        await crud.delete_playlist(db, "q")

    deleted: list[int] = []
    while not deleted or deleted[-1]:
        async with sessions.begin() as db:
            deleted.append(await crud.delete_orphan_tracks(db, limit=4))

    assert deleted == [4, 2, 0]
    assert [key for key, *_ in await stored_tracks(sessions)] == ["a", "b"]


async def test_the_deletion_of_orphans_is_undone_by_the_callers_rollback(
    sessions: Sessions,
) -> None:
    """The caller owns the transaction."""
    async with sessions.begin() as db:
        await crud.upsert_tracks(db, [TrackData(id="orphan")])
    before = await all_rows(sessions)
    async with sessions() as db:
        assert await crud.delete_orphan_tracks(db, limit=10) == 1
        await db.rollback()
    assert await all_rows(sessions) == before
