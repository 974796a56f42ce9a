"""Playlists as the Web API answers them, in its newer and in its older form."""

from __future__ import annotations

from typing import Any

import pytest

from zotify_async_crud.errors import InvalidValue
from zotify_async_crud.importers import Problem, read_playlist
from zotify_async_crud.schemas import PlaylistData, TrackData

Json = dict[str, Any]


def track(track_id: str | None = "t1", **others: Any) -> Json:
    """Return a track."""
    return {
        "type": "track",
        "id": track_id,
        "name": f"Song {track_id}",
        "artists": [{"name": "Ann"}, {"name": "Bob"}],
        "album": {"id": "a1", "name": "Home"},
        "is_local": False,
        **others,
    }


def entry(found: Json | None, key: str = "item", **others: Any) -> Json:
    """Return an entry of a page."""
    return {"added_at": "2024-02-29T00:00:00Z", "is_local": False, key: found, **others}


def page(*items: Any, offset: int = 0, total: int | None = None) -> Json:
    """Return a page, by default the only one."""
    count = offset + len(items) if total is None else total
    return {"href": "…", "items": list(items), "limit": 50, "offset": offset, "total": count}


def playlist(**others: Any) -> Json:
    """Return a playlist."""
    return {"id": "p1", "name": "Mix", "snapshot_id": "s1", "owner": {"id": "ann"}, **others}


@pytest.mark.parametrize(("pages_key", "entry_key"), [("items", "item"), ("tracks", "track")])
def test_a_playlist_comes_with_its_tracks_in_order(pages_key: str, entry_key: str) -> None:
    """Duplicates included; what is known of each track comes once."""
    ids = ["t2", "t1", "t2"]
    answer = playlist(**{pages_key: page(*(entry(track(each), entry_key) for each in ids))})

    imported = read_playlist(answer)

    assert imported.playlist == PlaylistData(id="p1", name="Mix", track_ids=ids, snapshot_id="s1")
    assert imported.tracks == [
        TrackData(id=each, name=f"Song {each}", artist="Ann, Bob", album="Home")
        for each in ("t2", "t1")
    ]
    assert imported.skipped == 0


@pytest.mark.parametrize(
    "found",
    [
        entry(None),
        None,
        entry(track("e1", type="episode")),
        entry(track(None)),
        entry(track("t9", is_local=True)),
        entry(track("t9"), is_local=True),
    ],
)
def test_what_is_no_track_of_spotify_is_skipped_and_counted(found: Json | None) -> None:
    """Null tracks, episodes and local files."""
    imported = read_playlist(playlist(), [page(entry(track("t1")), found, entry(track("t2")))])
    assert imported.playlist is not None
    assert imported.playlist.track_ids == ["t1", "t2"]
    assert imported.skipped == 1


def test_a_relinked_track_has_the_id_that_the_playlist_holds() -> None:
    """Another country has another recording, and the playlist is the same."""
    relinked = track("here", linked_from={"id": "there", "type": "track"})
    imported = read_playlist(playlist(), [page(entry(relinked))])
    assert imported.tracks[0].id == "there"


def test_what_is_not_known_of_a_track_is_none() -> None:
    """Names may be null or empty, and artists nobody."""
    unknown = track("t1", name="", artists=[{"name": None}], album={"name": None})
    bare = {"id": "t2"}
    imported = read_playlist(playlist(), [page(entry(unknown), entry(bare))])
    assert imported.tracks == [TrackData(id="t1"), TrackData(id="t2")]


def test_pages_follow_the_one_in_the_playlist_or_begin_anew() -> None:
    """Both are in use: to follow ``next``, and to ask for all pages."""
    pages = [
        page(*(entry(track(f"t{offset + n}")) for n in range(2)), offset=offset, total=5)
        for offset in (0, 2)
    ]
    pages.append(page(entry(track("t4")), offset=4, total=5))
    expected = [f"t{number}" for number in range(5)]
    for answer, given in (
        (playlist(items=pages[0]), pages[1:]),
        (playlist(items=pages[0]), pages),
        (playlist(items={"href": "…", "total": 5}), pages),
        (playlist(), pages),
    ):
        imported = read_playlist(answer, given)
        assert imported.playlist is not None
        assert imported.playlist.track_ids == expected


@pytest.mark.parametrize(
    ("answer", "pages", "field"),
    [
        (playlist(), [page(entry(track()), total=2)], "pages"),
        (playlist(), [page(entry(track()), offset=1)], "pages[0].offset"),
        (playlist(), [page(entry(track())), page(entry(track()))], "pages[1].offset"),
        (playlist(), [{"items": [entry(track())], "next": "https://…"}], "pages"),
        (playlist(), [{**page(entry(track())), "next": 5}], "pages[0].next"),
        (playlist(items={"items": [entry(track())]}), [{"items": []}], "pages[0].offset"),
        (playlist(items=page(entry(track()))), [None], "pages[0].offset"),
        (playlist(), [], "pages"),
        (playlist(items={"href": "…", "total": 5}), [], "pages"),
        (playlist(), [None], "pages[0]"),
        (playlist(), [{"items": None}], "pages[0].items"),
        (playlist(), [{**page(), "total": "many"}], "pages[0].total"),
        (playlist(items={"items": 5}), [], "playlist.items.items"),
        (playlist(id=""), [page()], "playlist.id"),
        (playlist(name=None), [page()], "playlist.name"),
        (playlist(snapshot_id=5), [page()], "playlist.snapshot_id"),
        (None, [page()], "playlist"),
        (playlist(), [page(entry(track("")))], "pages[0].items[0].item.id"),
        (playlist(), [page("t1")], "pages[0].items[0]"),
        (playlist(), [page({"is_local": False})], "pages[0].items[0].item"),
    ],
)
def test_what_is_wrong_or_missing_is_named(answer: Any, pages: list[Any], field: str) -> None:
    """A page that is missing would take tracks out of the playlist."""
    with pytest.raises(InvalidValue) as caught:
        read_playlist(answer, pages)
    assert caught.value.field == field


def test_a_wrong_entry_is_told_and_the_rest_goes_on() -> None:
    """Its place counts; a page that is wrong as a whole ends it."""
    problems: list[Problem] = []
    pages = [page(entry(track("t1")), entry(track("")), "x"), page(entry(track("t2")), offset=3)]
    imported = read_playlist(playlist(), pages, on_problem=problems.append)
    assert [each.id for each in imported.tracks] == ["t1", "t2"]
    assert [problem.place for problem in problems] == [
        "pages[0].items[1].item.id",
        "pages[0].items[2]",
    ]
    with pytest.raises(InvalidValue):
        read_playlist(playlist(), [{"items": None}], on_problem=problems.append)


def test_pages_without_their_places_are_taken_in_order() -> None:
    """``fields`` of a request may leave out ``offset`` and ``total``."""
    pages: list[Json] = [
        {"items": [entry(track("t1"))], "next": "…"},
        {"items": [entry(track("t2"))]},
    ]
    assert [each.id for each in read_playlist(playlist(), pages).tracks] == ["t1", "t2"]


def test_a_playlist_with_an_entry_left_out_has_no_snapshot() -> None:
    """It would stay without the entry as long as Spotify gives the same snapshot."""
    whole = read_playlist(playlist(), [page(entry(track()))], on_problem=print)
    part = read_playlist(playlist(), [page(entry(track()), "x")], on_problem=lambda _: None)
    assert whole.playlist is not None
    assert part.playlist is not None
    assert (whole.playlist.snapshot_id, part.playlist.snapshot_id) == ("s1", None)
