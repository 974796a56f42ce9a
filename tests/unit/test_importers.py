"""Spotify's account-data exports: what real ones hold, and what is said about broken ones."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zotify_async_crud import fields
from zotify_async_crud.demo import SAMPLE_EXPORT
from zotify_async_crud.errors import InvalidExport, ZotifyCrudError
from zotify_async_crud.importers import (
    Export,
    Problem,
    _json_lists,
    read_export,
    stream_export,
)
from zotify_async_crud.schemas import PlaylistData, TrackData

Json = object

_ID_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

EPISODE = {"episodeName": "12: Rain", "showName": "Talk", "episodeUri": "spotify:episode:e1"}
LOCAL = {"uri": "spotify:local:Ann:Home:Demo+tape:201"}

track_ids = st.text(_ID_CHARACTERS, min_size=22, max_size=22)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=100)

keys = st.sampled_from(["playlists", "tracks", "items", "name", "track", "trackUri", "uri"])
documents = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner),
)


def item(track_id: str = "t1", name: str | None = "A song", **others: Json) -> dict[str, Json]:
    """Return an entry of a playlist that is a track of Spotify's."""
    track = {
        "trackName": name,
        "artistName": "Ann",
        "albumName": "Home",
        "trackUri": f"spotify:track:{track_id}",
    }
    return {
        "track": track,
        "episode": None,
        "localTrack": None,
        "addedDate": "2024-02-29",
        **others,
    }


def no_track(**others: Json) -> dict[str, Json]:
    """Return an entry of a playlist that is something else."""
    return {"track": None, "episode": None, "audiobook": None, "localTrack": None, **others}


def playlist(name: str = "Mix", *items: Json) -> dict[str, Json]:
    """Return a playlist as Spotify writes it."""
    return {
        "name": name,
        "lastModifiedDate": "2024-03-01",
        "items": list(items),
        "description": None,
        "numberOfFollowers": 0,
    }


def saved(track_id: str = "t1", name: str | None = "A song") -> dict[str, Json]:
    """Return an entry of the library."""
    return {"artist": "Ann", "album": "Home", "track": name, "uri": f"spotify:track:{track_id}"}


def write(folder: Path, name: str = "Playlist1.json", /, **content: Json) -> Path:
    """Write a file of an export and return its path."""
    path = folder / name
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def problem(path: Path) -> str:
    """Return what is said about the export at *path*, without its path."""
    with pytest.raises(InvalidExport) as caught:
        read_export(path)
    error = caught.value
    assert isinstance(error, ZotifyCrudError)
    assert not error.retry_safe
    assert str(error) == f"{error.path}: {error.reason}"
    return error.reason


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    """Playlists and library come together, and each track counts once."""
    write(tmp_path, playlists=[playlist("Mix", item("t1"), item("t2", "Other"))])
    write(tmp_path, "YourLibrary.json", tracks=[saved("t2", "Late"), saved("t3", "Third")])
    export = read_export(tmp_path)
    (mix,) = export.playlists
    assert mix == PlaylistData(id=mix.id, name="Mix", track_ids=["t1", "t2"])
    assert export.library_track_ids == ("t2", "t3")
    assert export.track_ids == ("t1", "t2", "t3")
    assert export.track_names == {"t1": "A song", "t2": "Other", "t3": "Third"}
    assert export.skipped == 0


def test_numbered_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Playlist10.json comes after Playlist2.json, and files of other kinds are left alone."""
    for number in ("10", "2", "1", ""):
        write(tmp_path, f"Playlist{number}.json", playlists=[playlist(f"from {number}")])
    write(tmp_path, "PlaylistInABottle.json", capsules=[])
    write(tmp_path, "Userdata.json", username="ann")
    found = [playlist.name for playlist in read_export(tmp_path).playlists]
    assert found == ["from ", "from 1", "from 2", "from 10"]


@pytest.mark.parametrize("name", ["Playlist1.json", "my own name.txt"])
def test_one_file_of_playlists_is_enough(tmp_path: Path, name: str) -> None:
    """What a file is shows in its keys, not in its name."""
    export = read_export(write(tmp_path, name, playlists=[playlist("Mix", item("t1"))]))
    assert (len(export.playlists), export.library_track_ids) == (1, ())


@pytest.mark.parametrize("name", ["YourLibrary.json", "my own name.txt"])
def test_the_library_alone_is_enough(tmp_path: Path, name: str) -> None:
    """Its other lists hold nothing to download."""
    others = {"albums": [{"uri": "spotify:album:a"}], "bannedTracks": [saved("no")], "other": ["x"]}
    export = read_export(write(tmp_path, name, tracks=[saved("t1")], **others))
    assert export == Export((), ("t1",), {"t1": "A song"}, 0)


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    """Some tools put one before UTF-8."""
    path = tmp_path / "Playlist1.json"
    path.write_text(json.dumps({"playlists": [playlist()]}), encoding="utf-8-sig")
    assert read_export(path).playlists[0].name == "Mix"


@pytest.mark.parametrize(
    "entry",
    [
        no_track(localTrack=LOCAL),
        no_track(episode=EPISODE),
        no_track(audiobook={"audiobookName": "Long"}),
        no_track(somethingNew={"uri": "spotify:new:n1"}),
        no_track(),
        {},
        None,
        {"track": {"trackName": "Gone", "trackUri": None}},
        {"track": {"trackName": "Mine", "trackUri": "spotify:local:Ann:Home:Demo:201"}},
        {"track": {"trackName": "Talk", "trackUri": "spotify:episode:e1"}},
    ],
)
def test_what_is_no_track_of_spotify_is_skipped_and_counted(tmp_path: Path, entry: Json) -> None:
    """It is no error, and the tracks around it keep their order."""
    path = write(tmp_path, playlists=[playlist("Mix", item("t1"), entry, item("t2"))])
    export = read_export(path)
    assert export.playlists[0].track_ids == ["t1", "t2"]
    assert export.skipped == 1


def test_the_library_skips_local_files_nulls_and_episodes(tmp_path: Path) -> None:
    """They count like those in playlists."""
    tracks = [saved("t1"), {"uri": "spotify:local:a:b:c:1"}, None, {"uri": None}]
    export = read_export(write(tmp_path, tracks=tracks, episodes=[EPISODE, EPISODE]))
    assert (export.library_track_ids, export.skipped) == (("t1",), 5)


def test_unknown_keys_are_passed_over(tmp_path: Path) -> None:
    """Spotify adds keys without notice, at every level."""
    entry = item("t1", addedBy={"id": "ann"})
    path = write(tmp_path, playlists=[{**playlist("Mix", entry), "collaborators": []}], version=2)
    assert read_export(path).track_ids == ("t1",)


def test_a_missing_name_is_taken_from_where_it_is_known(tmp_path: Path) -> None:
    """Null and empty names are none."""
    entries = [item("t1", None), item("t1", ""), item("t1", "At last"), item("t1", "Too late")]
    assert read_export(write(tmp_path, playlists=[playlist("Mix", *entries)])).track_names == {
        "t1": "At last"
    }


def test_a_name_that_is_nowhere_known_is_none(tmp_path: Path) -> None:
    """Spotify has forgotten some tracks."""
    export = read_export(write(tmp_path, playlists=[playlist("Mix", item("t1", None))]))
    assert (export.track_ids, export.track_names) == (("t1",), {})


def test_playlists_of_one_name_stay_two_with_stable_ids(tmp_path: Path) -> None:
    """The next export finds them again, though it holds other tracks."""
    first = write(tmp_path, "a.json", playlists=[playlist("Mix", item("t1")), playlist("Mix")])
    later = write(tmp_path, "b.json", playlists=[playlist("New"), playlist("Mix"), playlist("Mix")])
    ids = [playlist.id for playlist in read_export(first).playlists]
    assert len(set(ids)) == 2
    assert [playlist.id for playlist in read_export(later).playlists][1:] == ids


@pytest.mark.parametrize(
    "given",
    [
        ["."],
        ["Playlist1.json", "Playlist2.json"],
        ["Playlist2.json", "Playlist1.json"],
        ["Playlist1.json", "again/../Playlist2.json", "again/../Playlist1.json"],
        ["Playlist2.json", "."],
    ],
)
def test_the_files_of_one_folder_are_one_export(tmp_path: Path, given: list[str]) -> None:
    """However they are given, the playlists have the ids that they have in the whole of it."""
    for number in (1, 2):
        mixes = [playlist("Mix", item(f"t{number}")), playlist("Mix")]
        write(tmp_path, f"Playlist{number}.json", playlists=mixes)
    (tmp_path / "again").mkdir()

    parts = stream_export(*(tmp_path / path for path in given))

    assert tuple(part.playlist for part in parts) == read_export(tmp_path).playlists


def test_files_of_other_folders_and_names_are_exports_of_their_own(tmp_path: Path) -> None:
    """A later one says anew what the playlists of an earlier one are."""
    paths = [tmp_path / name for name in ("old/Playlist1.json", "Playlist1.json", "x.json")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        write(path.parent, path.name, playlists=[playlist("Mix", item(path.stem))])
    found = [part.playlist for part in stream_export(*paths) if part.playlist]
    assert [each.track_ids for each in found] == [["Playlist1"], ["Playlist1"], ["x"]]
    assert len({each.id for each in found}) == 1


def test_playlist_ids_never_change() -> None:
    """Another way to make them would double the playlists of everybody who imported before."""
    [first] = [p for p in read_export(SAMPLE_EXPORT).playlists if p.name == "Morning Coffee"]
    assert first.id == "0ac55759-8714-5798-970b-c48f56c68e79"


@given(st.lists(st.tuples(names, st.lists(track_ids, max_size=5)), max_size=8))
def test_playlists_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, content: list[tuple[str, list[str]]]
) -> None:
    """Any name that JSON can carry, any order, any duplicates; every playlist has its own id."""
    playlists = [playlist(name, *map(item, ids)) for name, ids in content]
    export = read_export(write(tmp_path_factory.getbasetemp(), playlists=playlists))
    assert [(found.name, list(found.track_ids)) for found in export.playlists] == content
    assert len({uuid.UUID(found.id) for found in export.playlists}) == len(content)
    assert set(export.track_ids) == {track_id for _, ids in content for track_id in ids}


@given(documents)
def test_any_json_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: Json
) -> None:
    """No shape of it gets past the one error."""
    path = tmp_path_factory.getbasetemp() / "YourLibrary.json"
    path.write_text(json.dumps(content))
    with contextlib.suppress(InvalidExport):
        assert read_export(path).skipped >= 0


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    """The path stands first, and then why."""
    assert problem(tmp_path / "nowhere") == "No such file or directory"


def test_a_folder_without_an_export_is_told(tmp_path: Path) -> None:
    """The message says what should be in it."""
    write(tmp_path, "Userdata.json", username="ann")
    assert problem(tmp_path) == "neither Playlist1.json nor YourLibrary.json is in this folder"


def test_a_folder_that_cannot_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may belong to somebody else."""

    def refuse(_: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert problem(tmp_path) == "Permission denied"


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    """Not every Playlist1.json is a file."""
    (tmp_path / "Playlist1.json").mkdir()
    assert problem(tmp_path) == "Is a directory"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Invalid JSON: .+ at line 1 column 0"),
        (b'{"playlists": [\n  {"name": }', "Invalid JSON: .+ at line 2 column 12"),
        (b'{"playlists": []} {}', "Invalid JSON: .+ at line 1 column 19"),
        (b"[" * 100_000, r"Invalid JSON: .+ at line 1 column \d+"),
        (b'{"playlists": [{"name":' + b"[" * 500, r"Invalid JSON: .+ at line 1 column \d+"),
        ('{"playlists": []}'.encode("utf-16"), "byte 0 is not UTF-8"),
        ('{"playlists": [{"name": "Café"}]}'.encode("latin-1"), "byte 28 is not UTF-8"),
        (b"[]", "Input should be an object"),
        (b"{}", "neither playlists nor tracks are in this file"),
    ],
)
def test_what_is_no_json_of_spotify_is_told_with_its_place(
    tmp_path: Path, data: bytes, reason: str
) -> None:
    """Line and column, or the byte."""
    path = tmp_path / "Playlist1.json"
    path.write_bytes(data)
    assert re.fullmatch(reason, problem(tmp_path))


def with_uri(uri: Json) -> dict[str, Json]:
    """Return playlists of which one has a track with *uri*."""
    bad = {"track": {"trackName": "x", "trackUri": uri}}
    return {"playlists": [playlist(), playlist(), playlist("Mix", *[item()] * 5, bad)]}


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"playlists": None}, "playlists"),
        ({"playlists": {}}, "playlists"),
        ({"playlists": [None]}, "playlists[0]"),
        ({"playlists": [{"items": []}]}, "playlists[0].name"),
        ({"playlists": [playlist(), {"name": "x"}]}, "playlists[1].items"),
        ({"playlists": [{"name": 3, "items": []}]}, "playlists[0].name"),
        ({"playlists": [playlist("nul\0")]}, "playlists[0].name"),
        ({"playlists": [playlist("x" * 1_001)]}, "playlists[0].name"),
        ({"playlists": [playlist("Mix", "t1")]}, "playlists[0].items[0]"),
        ({"playlists": [playlist("Mix", {"track": "t1"})]}, "playlists[0].items[0].track"),
        ({"playlists": [playlist("Mix", {"track": {}})]}, "playlists[0].items[0].track.trackUri"),
        (with_uri(17), "playlists[2].items[5].track.trackUri"),
        (with_uri(""), "playlists[2].items[5].track.trackUri"),
        (with_uri("https://example.org/t1"), "playlists[2].items[5].track.trackUri"),
        (with_uri("spotify:track:"), "playlists[2].items[5].track.trackUri"),
        (with_uri("spotify:track:a b"), "playlists[2].items[5].track.trackUri"),
        (with_uri("spotify:track:a:b"), "playlists[2].items[5].track.trackUri"),
        (with_uri("spotify:track:a\n"), "playlists[2].items[5].track.trackUri"),
        (with_uri("spotify:track:" + "a" * 256), "playlists[2].items[5].track.trackUri"),
        ({"tracks": [saved(), {"track": "x"}]}, "tracks[1].uri"),
        ({"tracks": [{**saved(), "track": 5}]}, "tracks[0].track"),
        ({"tracks": [], "episodes": 3}, "episodes"),
    ],
)
def test_a_wrong_shape_is_told_with_its_place(
    tmp_path: Path, content: dict[str, Json], place: str
) -> None:
    """A user can look it up in the file."""
    reason = problem(write(tmp_path, **content))
    assert reason.startswith(f"{place}: ")


def test_what_is_known_of_a_track_comes_once_and_together(tmp_path: Path) -> None:
    """Names, artists and albums, each from where it is known first."""
    entries = [item("t1", None), item("t1", "Name"), item("t1", "Late"), item("t2", "Other")]
    entries[1]["track"] = {**entries[1]["track"], "albumName": "Away"}  # type: ignore[dict-item]
    (imported,) = stream_export(write(tmp_path, playlists=[playlist("Mix", *entries)]))
    assert imported.tracks == [
        TrackData(id="t1", name="Name", artist="Ann", album="Home"),
        TrackData(id="t2", name="Other", artist="Ann", album="Home"),
    ]


def test_a_long_library_comes_in_parts(tmp_path: Path) -> None:
    """So that it need not be in memory; the episodes are counted as well."""
    tracks = [saved(f"t{number}") for number in range(5_001)]
    path = write(tmp_path, tracks=tracks, episodes=[EPISODE])
    parts = [(len(part.tracks), part.skipped) for part in stream_export(path)]
    assert parts == [(5_000, 0), (1, 0), (0, 1)]


def test_what_is_wrong_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    """An entry is left out, and a playlist without a name is left out whole."""
    bad = {"track": {"trackName": 5, "trackUri": "nowhere"}}
    path = write(
        tmp_path,
        playlists=[
            playlist("First", item("t1"), bad, item("t2"), "t3"),
            {"name": None, "items": [item("t4")]},
            None,
            {"name": "No items"},
            playlist("Last", item("t5")),
        ],
    )
    write(tmp_path, "YourLibrary.json", tracks=[saved("t6"), {"uri": 5}, None])
    problems: list[Problem] = []
    parts = list(stream_export(tmp_path, on_problem=problems.append))
    found = [(part.playlist.name, part.playlist.track_ids) for part in parts if part.playlist]
    assert found == [("First", ["t1", "t2"]), ("Last", ["t5"])]
    assert [track.id for part in parts for track in part.tracks] == ["t1", "t2", "t5", "t6"]
    assert sum(part.skipped for part in parts) == 1
    assert [problem.place for problem in problems] == [
        "playlists[0].items[1].track.trackUri",
        "playlists[0].items[1].track.trackName",
        "playlists[0].items[3]",
        "playlists[1].name",
        "playlists[2]",
        "playlists[3].items",
        "tracks[1].uri",
    ]
    assert str(problems[0]).startswith(
        f"{path}: playlists[0].items[1].track.trackUri: Input should"
    )


def test_a_playlist_that_is_left_out_counts_among_those_of_its_name(tmp_path: Path) -> None:
    """Another one would take its id, and its place in the database."""
    whole = write(tmp_path, "a.json", playlists=[playlist("Mix"), playlist("Mix", item("t1"))])
    broken = write(tmp_path, "b.json", playlists=[{"name": "Mix"}, playlist("Mix", item("t1"))])
    (part,) = stream_export(broken, on_problem=lambda _: None)
    assert part.playlist == read_export(whole).playlists[1]


def test_a_playlist_longer_than_the_database_takes_is_told(tmp_path: Path) -> None:
    """It is left out whole, before anything of the export is stored."""
    longest = [None] * fields.PLAYLIST_MAX_TRACKS
    write(tmp_path, playlists=[playlist("Longest", *longest), playlist("Longer", None, *longest)])
    problems: list[Problem] = []
    (part,) = stream_export(tmp_path, on_problem=problems.append)
    assert part.skipped == fields.PLAYLIST_MAX_TRACKS
    assert [problem.place for problem in problems] == ["playlists[1].items"]


def test_a_large_file_is_not_read_whole_to_tell_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is wrong it tells less."""
    monkeypatch.setattr(_json_lists, "_SMALL", 10)
    path = tmp_path / "Playlist1.json"
    for content, reason in (
        ('{"history": [1, 2, 3]}', "neither playlists nor tracks are in this file"),
        ('{"playlists": [', "Invalid JSON: .+"),
    ):
        path.write_text(content)
        assert re.fullmatch(reason, problem(path))


def test_the_sample_is_an_export_with_all_that_occurs_in_real_ones() -> None:
    """It ships with the package, and the demo reads it by default."""
    export = read_export(SAMPLE_EXPORT)
    lists = export.playlists
    assert (len(lists), len(export.track_ids), export.skipped) == (13, 600, 19)
    assert len(export.track_names) == 600
    assert len({found.name for found in lists}) == len(lists) - 1  # two of one name
    assert any(not found.track_ids for found in lists)
    assert any(len(set(found.track_ids)) < len(found.track_ids) for found in lists)
    assert not all(found.name.isascii() for found in lists)
    assert sum(file.stat().st_size for file in SAMPLE_EXPORT.iterdir()) < 300_000
