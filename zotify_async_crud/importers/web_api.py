"""Reads playlists as the Web API answers them.

https://developer.spotify.com/documentation/web-api/reference/get-playlists-items describes a page.
The entries are under ``item``, and in answers of the older ``/tracks`` under ``track``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any, Final

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from zotify_async_crud import fields
from zotify_async_crud.errors import InvalidValue
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
from zotify_async_crud.schemas import PlaylistData, TrackData


class _Part(BaseModel):
    """Part of an answer; what is unknown here is passed over."""

    model_config = ConfigDict(frozen=True)


class _Named(_Part):
    name: fields.Name | None = None


class _Link(_Part):
    id: fields.Id


class _Track(_Part):
    """A track, an episode or a local file."""

    type: str = "track"
    id: fields.Id | None
    is_local: bool = False
    linked_from: _Link | None = None
    name: fields.Name | None = None
    artists: list[_Named] = []
    album: _Named | None = None

    @property
    def data(self) -> TrackData | None:
        """What is known of the track, or None if it is none of Spotify's."""
        if self.type != "track" or self.is_local or self.id is None:
            return None
        # another recording is played in some countries; the playlist holds the one it comes from
        key = self.linked_from.id if self.linked_from else self.id
        artists = ", ".join(artist.name for artist in self.artists if artist.name)
        return TrackData.model_construct(
            id=key,
            name=self.name or None,
            artist=artists[: fields.NAME_MAX_LENGTH] or None,
            album=(self.album and self.album.name) or None,
        )


class _Item(_Part):
    is_local: bool = False
    track: _Track | None = Field(validation_alias=AliasChoices("item", "track"))

    @property
    def data(self) -> TrackData | None:
        """What is known of the track, or None if it is none of Spotify's."""
        return self.track.data if self.track and not self.is_local else None


class _Page(_Part):
    items: list[_Item | None]
    offset: Annotated[int, Field(ge=0)] | None = None
    total: Annotated[int, Field(ge=0)] | None = None
    next: str | None = None
    """Where the page that follows is, if there is one."""


class _Playlist(_Part):
    id: fields.Id
    name: fields.Name
    snapshot_id: fields.SnapshotId | None = None


_PLAYLIST: Final = TypeAdapter(_Playlist)
_PAGE: Final = TypeAdapter(_Page)


def read_playlist(
    playlist: Mapping[str, Any],
    pages: Iterable[Mapping[str, Any]] = (),
    *,
    on_problem: OnProblem | None = None,
) -> Imported:
    """Return a playlist as the Web API answers it.

    *playlist* is the answer to ``GET /playlists/{id}``, and *pages* are those to
    ``GET /playlists/{id}/items`` or the older ``/tracks``: all of them, or the ones that follow the
    page that stands in *playlist* itself, which their ``offset`` tells apart. A track that was
    relinked for a country has the id that the playlist holds (``linked_from``). An entry that is
    not what Spotify answers is given to *on_problem* and left out, and the playlist then has no
    ``snapshot_id``, so that the next sync looks at it again; without *on_problem*, the first one is
    an error.

    Raises:
        InvalidValue: *playlist* or a page is wrong, or one is missing: what is not in the answers
            would be removed from the playlist.
    """
    header = _header(playlist)
    entries = _Entries(on_problem)
    for place, page in _pages(playlist, list(pages)):
        entries.add(place, page)
    entries.check_complete()
    data = PlaylistData.model_construct(
        id=header.id,
        name=header.name,
        track_ids=[track.id for track in entries.tracks],
        snapshot_id=None if entries.are_incomplete else header.snapshot_id,
    )
    return Imported(data, once(entries.tracks), entries.skipped)


class _Entries:
    """The entries of the pages that were read until now."""

    def __init__(self, on_problem: OnProblem | None) -> None:
        self._on_problem = on_problem
        self._count = 0
        self._total: int | None = None
        self._next: str | None = None
        self.tracks: list[TrackData] = []
        self.skipped = 0
        self.are_incomplete = False
        """Whether some were left out that may be tracks."""

    def add(self, place: str, raw: Any) -> None:
        """Add the page *raw*, which is the next one."""
        report = partial(self._report, place)
        page = without_wrong_entries(_PAGE, raw, "items", report)
        if page is None:
            raise InvalidValue(place, "Input should be a page of entries")
        if page.offset not in {None, self._count}:
            raise InvalidValue(f"{place}.offset", f"Input should be {self._count}")
        self._count += len(raw["items"])
        self._total, self._next = page.total, page.next
        found = [item.data if item else None for item in page.items]
        self.tracks += [track for track in found if track]
        self.skipped += found.count(None)

    def check_complete(self) -> None:
        """Make sure that no page is missing, as far as the last one says."""
        if self._total not in {None, self._count}:
            reason = f"Input should hold all {self._total} entries, and not {self._count}"
            raise InvalidValue("pages", reason)
        if self._next:
            raise InvalidValue("pages", "Input should hold the page that is next after the last")

    def _report(self, place: str, location: Location, reason: str) -> None:
        problem = Problem("Web API", f"{place}.{place_of(location)}".rstrip("."), reason)
        if self._on_problem is None:
            raise InvalidValue(problem.place, reason)
        self.are_incomplete = True
        self._on_problem(problem)


def _header(playlist: object) -> _Playlist:
    try:
        return _PLAYLIST.validate_python(playlist)
    except ValidationError as error:
        ((location, reason), *_) = problems_of(error)
    # outside the except block, so that no __context__ carries the answer along
    raise InvalidValue(place_of(("playlist", *location)), reason)


def _pages(playlist: Mapping[str, Any], pages: list[Any]) -> list[tuple[str, Any]]:
    """Return all pages and where they stand: the one in the playlist first, unless it is given."""
    found: list[tuple[str, Any]] = [(f"pages[{number}]", page) for number, page in enumerate(pages)]
    inner = {key: playlist.get(key) for key in ("items", "tracks")}
    first = [
        (f"playlist.{key}", page)
        for key, page in inner.items()
        if isinstance(page, Mapping) and "items" in page  # in a list of playlists it is left out
    ]
    if not (first or found):
        raise InvalidValue("pages", "Input should hold the entries of the playlist")
    if not (first and found):
        return first[:1] or found
    offset = pages[0].get("offset") if isinstance(pages[0], Mapping) else None
    if offset is None:
        reason = "Input should say if this is the first page, or follows the one in the playlist"
        raise InvalidValue("pages[0].offset", reason)
    return found if offset == 0 else [*first[:1], *found]
