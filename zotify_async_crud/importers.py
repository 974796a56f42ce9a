"""Reads what Spotify hands out about an account: the JSON files of an account-data export.

https://support.spotify.com/article/understanding-my-data/ describes them. ``_File`` is what one
looks like; ``_Collection`` makes one export of any number of them.
"""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from zotify_async_crud import schemas
from zotify_async_crud.errors import InvalidExport

__all__ = ["Export", "ExportedPlaylist", "read_export"]

LIBRARY: Final = "YourLibrary.json"

# Big accounts have Playlist2.json and so on, old exports one Playlist.json. PlaylistInABottle.json,
# which real exports hold too, is something else.
_PLAYLISTS: Final = re.compile(r"Playlist(\d*)\.json")

_SPOTIFY_URI: Final = re.compile(r"spotify:(\w+):(.+)", re.DOTALL)
_TRACK_ID: Final = re.compile(rf"[^\s:\x00]{{1,{schemas.ID_MAX_LENGTH}}}")

_PLAYLIST_IDS: Final = uuid.UUID("0198f5c2-53a1-7c66-9d0e-2f6b8a4c71d3")


@dataclass(frozen=True, slots=True)
class ExportedPlaylist:
    """A playlist as it was exported, in its order and with its duplicates.

    Exports hold no ids. ``id`` is made from the name and, since two playlists can have one name,
    from which of them it is: the next export gives the same, unless the playlist was renamed.
    """

    id: str
    name: str
    track_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Export:
    """What an export says about tracks.

    ``skipped`` counts the entries that are no tracks of Spotify's: local files, episodes,
    audiobooks and empty ones.
    """

    playlists: tuple[ExportedPlaylist, ...]
    library_track_ids: tuple[str, ...]
    track_names: Mapping[str, str]
    skipped: int

    @property
    def track_ids(self) -> tuple[str, ...]:
        """Every track once, in the order in which the export first names it."""
        listed = [*(playlist.track_ids for playlist in self.playlists), self.library_track_ids]
        return tuple(dict.fromkeys(track_id for track_ids in listed for track_id in track_ids))


def read_export(path: Path) -> Export:
    """Return what the export at *path* holds: its folder, or one file of it by any name.

    Raises:
        InvalidExport: There is no such file, or it is not what Spotify ships. The message names the
            file and the place in it.
    """
    collection = _Collection()
    for file in _files(path):
        collection.add(_read_file(file))
    return collection.export()


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


class _Part(BaseModel):
    """Part of a file. Spotify adds keys now and then: those unknown here are passed over."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class _PlaylistTrack(_Part):
    id: _TrackId = Field(alias="trackUri")
    name: schemas.Name | None = Field(default=None, alias="trackName")


class _Item(_Part):
    track: _PlaylistTrack | None = None  # null where the item is an episode, a local file, …


class _Playlist(_Part):
    name: schemas.Name
    items: list[_Item | None]


class _LibraryTrack(_Part):
    id: _TrackId = Field(alias="uri")
    name: schemas.Name | None = Field(default=None, alias="track")


class _File(_Part):
    """A file of either kind; which one shows in the keys, whatever its name."""

    playlists: list[_Playlist] = []
    tracks: list[_LibraryTrack | None] = []
    episodes: list[object] = []


@dataclass(slots=True)
class _Collection:
    """Gathers files into one export."""

    playlists: list[ExportedPlaylist] = field(default_factory=list)
    library: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    namesakes: Counter[str] = field(default_factory=Counter)

    def add(self, file: _File) -> None:
        for playlist in file.playlists:
            track_ids = self._known(item.track if item else None for item in playlist.items)
            self.playlists.append(
                ExportedPlaylist(self._id(playlist.name), playlist.name, track_ids)
            )
        self.library += self._known(file.tracks)
        self.skipped += len(file.episodes)

    def export(self) -> Export:
        return Export(
            tuple(self.playlists), tuple(self.library), MappingProxyType(self.names), self.skipped
        )

    def _id(self, name: str) -> str:
        self.namesakes[name] += 1
        return str(uuid.uuid5(_PLAYLIST_IDS, f"{self.namesakes[name]} {name}"))

    def _known(self, tracks: Iterable[_PlaylistTrack | _LibraryTrack | None]) -> tuple[str, ...]:
        track_ids = []
        for track in tracks:
            if track is None or track.id is None:
                self.skipped += 1
                continue
            track_ids.append(track.id)
            if track.name:
                self.names.setdefault(track.id, track.name)
        return tuple(track_ids)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        files = [file for file in path.iterdir() if _order(file) is not None]
    except OSError as error:
        raise InvalidExport(path, error.strerror or str(error)) from error
    if not files:
        raise InvalidExport(path, f"neither Playlist1.json nor {LIBRARY} is in this folder")
    return sorted(files, key=lambda file: (_order(file), file.name))


def _order(file: Path) -> float | None:
    """Return where *file* stands among the files to read, or None if it is none of them."""
    if file.name == LIBRARY:
        return float("inf")
    playlists = _PLAYLISTS.fullmatch(file.name)
    return int(playlists[1] or 0) if playlists else None


def _read_file(path: Path) -> _File:
    try:
        # not left to pydantic, which takes no byte order mark
        text = path.read_bytes().decode("utf-8-sig")
        file = _File.model_validate_json(text)
    except OSError as error:
        raise InvalidExport(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidExport(path, f"byte {error.start} is not UTF-8") from error
    except ValidationError as error:
        raise InvalidExport(path, _first_problem(error)) from error
    if not file.model_fields_set & {"playlists", "tracks"}:
        raise InvalidExport(path, "neither playlists nor tracks are in this file")
    return file


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in problem["loc"])
    return f"{place.lstrip('.')}: {problem['msg']}" if place else problem["msg"]
