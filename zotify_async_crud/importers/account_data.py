"""Reads the JSON files of an account-data export.

https://support.spotify.com/article/understanding-my-data/ describes them. They are read a playlist
at a time, since an account can have millions of entries.
"""

from __future__ import annotations

import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, BinaryIO, Final, TypeAlias

import ijson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from zotify_async_crud import fields
from zotify_async_crud.errors import InvalidExport
from zotify_async_crud.importers._imported import (
    Imported,
    Location,
    OnProblem,
    Problem,
    once,
    place_of,
    problems_of,
    without_wrong_entries,
)
from zotify_async_crud.importers._json_lists import entries_of, explained, text_if_small
from zotify_async_crud.schemas import PlaylistData, TrackData

LIBRARY: Final = "YourLibrary.json"

Numbered: TypeAlias = Iterator[tuple[int, Any]]

# Big accounts have Playlist2.json and so on, old exports one Playlist.json. PlaylistInABottle.json,
# which real exports hold too, is something else.
_PLAYLISTS: Final = re.compile(r"Playlist(\d*)\.json")

_SPOTIFY_URI: Final = re.compile(r"spotify:(\w+):(.+)", re.DOTALL)
_TRACK_ID: Final = re.compile(rf"[^\s:\x00]{{1,{fields.ID_MAX_LENGTH}}}")

_PLAYLIST_IDS: Final = uuid.UUID("0198f5c2-53a1-7c66-9d0e-2f6b8a4c71d3")

_LISTS: Final = frozenset({"playlists", "tracks", "episodes"})
_TRACKS_AT_ONCE: Final = 5_000


@dataclass(frozen=True, slots=True)
class Export:
    """What an export says about tracks, all of it in memory.

    Exports hold no playlist ids. An id is made from the name and, since two playlists can have one
    name, from which of them it is: the next export gives the same, unless the playlist was renamed.
    """

    playlists: tuple[PlaylistData, ...]
    library_track_ids: tuple[str, ...]
    track_names: Mapping[str, str]
    skipped: int

    @property
    def track_ids(self) -> tuple[str, ...]:
        """Every track once, in the order in which the export first names it."""
        listed = (playlist.track_ids for playlist in self.playlists)
        return tuple(dict.fromkeys(chain(*listed, self.library_track_ids)))


def read_export(path: Path) -> Export:
    """Return what the export at *path* holds: its folder, or one file of it by any name.

    Raises:
        InvalidExport: There is no such file, or it is not what Spotify ships. The message names the
            file and the place in it.
    """
    playlists: list[PlaylistData] = []
    library: list[str] = []
    names: dict[str, str] = {}
    skipped = 0
    for playlist, tracks, left_out in stream_export(path):
        if playlist is not None:
            playlists.append(playlist)
        else:
            library += [track.id for track in tracks]
        for track in tracks:
            if track.name is not None:
                names.setdefault(track.id, track.name)
        skipped += left_out
    return Export(tuple(playlists), tuple(library), MappingProxyType(names), skipped)


def stream_export(*paths: Path, on_problem: OnProblem | None = None) -> Iterator[Imported]:
    """Yield what the exports at *paths* hold, in memory that does not grow with their size.

    A path is that of a folder, or of one file by any name. Files of one folder that have the names
    which Spotify gives them are one export, however they are given: each is read once, in its turn.

    Playlists come one by one, with ids as ``Export`` has them; the tracks of the library, which are
    in no playlist, a few thousand at a time. An entry that is not what Spotify ships is given to
    *on_problem*, and the rest goes on; without it, the first one ends it. A playlist whose name is
    wrong is left out whole.

    Raises:
        InvalidExport: There is no such file, or it is no JSON at all, or there is no *on_problem*.
    """
    for export in _exports(paths):
        namesakes: Counter[str] = Counter()
        for file in export:
            yield from _Reader(file, on_problem).read(namesakes)


def _track_id(uri: str | None) -> str | None:
    """Return the id in *uri*, or None if it names something else than a track of Spotify's."""
    if uri is None:
        return None
    parts = _SPOTIFY_URI.fullmatch(uri)
    if parts is None:
        raise PydanticCustomError("spotify_uri", "Input should be a URI such as spotify:track:<id>")
    kind, rest = parts.groups()
    if kind != "track":
        return None
    if not _TRACK_ID.fullmatch(rest):
        raise PydanticCustomError(
            "spotify_track_id", "Input should have a track id after spotify:track:"
        )
    return rest


_TrackId = Annotated[str | None, AfterValidator(_track_id)]
_Name = Annotated[fields.Name | None, AfterValidator(lambda name: name or None)]


class _Part(BaseModel):
    """Part of a file. Spotify adds keys now and then: those unknown here are passed over."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class _Track(_Part):
    """A track; what it is called differs between the files."""

    id: _TrackId
    name: _Name = None
    artist: _Name = None
    album: _Name = None

    @property
    def data(self) -> TrackData:
        """What is known of the track, which was validated already."""
        return TrackData.model_construct(
            id=self.id, name=self.name, artist=self.artist, album=self.album
        )


class _PlaylistTrack(_Track):
    id: _TrackId = Field(alias="trackUri")
    name: _Name = Field(default=None, alias="trackName")
    artist: _Name = Field(default=None, alias="artistName")
    album: _Name = Field(default=None, alias="albumName")


class _LibraryTrack(_Track):
    id: _TrackId = Field(alias="uri")
    name: _Name = Field(default=None, alias="track")


class _Item(_Part):
    track: _PlaylistTrack | None = None  # null where the item is an episode, a local file, …


class _Playlist(_Part):
    name: fields.Name
    items: Annotated[list[_Item | None], Field(max_length=fields.PLAYLIST_MAX_TRACKS)]


class _File(_Part):
    """A file of either kind; which one shows in the keys, whatever its name."""

    playlists: list[object] = []
    tracks: list[object] = []
    episodes: list[object] = []


_PLAYLIST: Final = TypeAdapter(_Playlist)
_LIBRARY_TRACK: Final[TypeAdapter[_LibraryTrack | None]] = TypeAdapter(_LibraryTrack | None)


class _Reader:
    """Reads one file."""

    def __init__(self, path: Path, on_problem: OnProblem | None) -> None:
        self._path, self._on_problem = path, on_problem

    def read(self, namesakes: Counter[str]) -> Iterator[Imported]:
        """Yield what is in the file; *namesakes* counts the playlists of each name until here."""
        is_empty = True
        try:
            with self._path.open("rb") as file:
                for key, entries in groupby(entries_of(file, _LISTS), itemgetter(0)):
                    numbered = enumerate(entry for _, entry in entries)
                    for imported in self._readers[key](numbered, namesakes):
                        is_empty = False
                        yield imported
                if is_empty:
                    self._check_kind(file)
        except OSError as error:
            raise InvalidExport(self._path, error.strerror or str(error)) from error
        except ijson.JSONError as error:
            raise InvalidExport(self._path, explained(self._path, error)) from error

    @property
    def _readers(self) -> Mapping[str, Callable[[Numbered, Counter[str]], Iterator[Imported]]]:
        return {"playlists": self._playlists, "tracks": self._tracks, "episodes": self._episodes}

    def _playlists(self, entries: Numbered, namesakes: Counter[str]) -> Iterator[Imported]:
        for number, raw in entries:
            name = raw.get("name") if isinstance(raw, dict) else None
            if isinstance(name, str):  # also of one that is left out: the others keep their ids
                namesakes[name] += 1
            report = partial(self._report, "playlists", number)
            playlist = without_wrong_entries(_PLAYLIST, raw, "items", report)
            if playlist is None:
                continue
            tracks = [item.track if item else None for item in playlist.items]
            found = [track.data for track in tracks if track and track.id]
            data = PlaylistData.model_construct(
                id=str(uuid.uuid5(_PLAYLIST_IDS, f"{namesakes[playlist.name]} {playlist.name}")),
                name=playlist.name,
                track_ids=[track.id for track in found],
            )
            yield Imported(data, once(found), len(tracks) - len(found))

    def _tracks(self, entries: Numbered, _: object) -> Iterator[Imported]:
        while part := list(islice(entries, _TRACKS_AT_ONCE)):
            tracks = [track for number, raw in part for track in self._library_track(raw, number)]
            found = [track.data for track in tracks if track and track.id]
            yield Imported(None, once(found), len(tracks) - len(found))

    def _episodes(self, entries: Numbered, _: object) -> Iterator[Imported]:
        yield Imported(None, [], sum(1 for _ in entries))

    def _library_track(self, raw: Any, number: int) -> list[_LibraryTrack | None]:
        """Return a track or what is none, or nothing at all if it is wrong."""
        try:
            return [_LIBRARY_TRACK.validate_python(raw)]
        except ValidationError as error:
            problems = problems_of(error)
        for location, reason in problems:
            self._report("tracks", number, location, reason)
        return []

    def _report(self, key: str, number: int, location: Location, reason: str) -> None:
        problem = Problem(str(self._path), place_of((key, number, *location)), reason)
        if self._on_problem is None:
            raise InvalidExport(self._path, f"{problem.place}: {reason}")
        self._on_problem(problem)

    def _check_kind(self, file: BinaryIO) -> None:
        """Make sure that a file in which nothing was found is one of an export, if an empty one."""
        if (text := text_if_small(file)) is None:
            raise InvalidExport(self._path, _NEITHER)
        try:
            content = _File.model_validate_json(text)
        except ValidationError as error:
            ((location, reason), *_) = problems_of(error)
            place = place_of(location)
            raise InvalidExport(self._path, f"{place}: {reason}" if place else reason) from error
        if not content.model_fields_set & {"playlists", "tracks"}:
            raise InvalidExport(self._path, _NEITHER)


_NEITHER: Final = "neither playlists nor tracks are in this file"


def _exports(paths: Iterable[Path]) -> list[list[Path]]:
    """Return the files of each export, in the order in which they are read."""
    exports: dict[Path, dict[str, Path]] = {}
    for file in chain.from_iterable(map(_files, paths)):
        folder = Path(os.path.realpath(file.parent))
        export = folder if _order(file) is not None else folder / file.name
        exports.setdefault(export, {}).setdefault(file.name, file)
    return [sorted(files.values(), key=_turn) for files in exports.values()]


def _files(path: Path) -> list[Path]:
    """Return the files of an export that *path* stands for."""
    try:
        if not path.is_dir():
            return [path]
        files = [file for file in path.iterdir() if _order(file) is not None]
    except OSError as error:
        raise InvalidExport(path, error.strerror or str(error)) from error
    if not files:
        raise InvalidExport(path, f"neither Playlist1.json nor {LIBRARY} is in this folder")
    return files


def _turn(file: Path) -> tuple[float, str]:
    """Return when *file* is read among those of its export."""
    return _order(file) or 0, file.name


def _order(file: Path) -> float | None:
    """Return where *file* stands among the files to read, or None if it is none of them."""
    if file.name == LIBRARY:
        return float("inf")
    playlists = _PLAYLISTS.fullmatch(file.name)
    return int(playlists[1] or 0) if playlists else None
