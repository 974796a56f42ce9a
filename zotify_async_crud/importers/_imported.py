"""What every source comes down to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from zotify_async_crud.schemas import PlaylistData, TrackData

T = TypeVar("T")

Location: TypeAlias = tuple[int | str, ...]
"""The steps to a place in a document."""


class Imported(NamedTuple):
    """A playlist, or tracks that are in none: the arguments of ``crud``."""

    playlist: PlaylistData | None
    """For ``sync_playlists``; None for tracks that were saved by themselves."""

    tracks: list[TrackData]
    """For ``upsert_tracks``: what is known of each track, once."""

    skipped: int
    """Entries that are no tracks of Spotify's: local files, episodes, audiobooks and empty ones."""


class Problem(NamedTuple):
    """Something in a source that is not as it should be."""

    source: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source}: {self.place}: {self.reason}"


OnProblem: TypeAlias = Callable[[Problem], None]


def once(tracks: Iterable[TrackData]) -> list[TrackData]:
    """Return each track once, with the first of everything that is known of it."""
    found: dict[str, TrackData] = {}
    for track in tracks:
        known = found.get(track.id)
        if known is None:
            found[track.id] = track
        elif known != track:
            news = {key: value for key, value in track if getattr(known, key) is None}
            found[track.id] = known.model_copy(update=news)
    return list(found.values())


def without_wrong_entries(
    adapter: TypeAdapter[T], raw: Any, key: str, report: Callable[[Location, str], None]
) -> T | None:
    """Return *raw* as *adapter* reads it without those of the entries under *key* that are wrong.

    Each problem is reported. It is None if more than entries are wrong.
    """
    try:
        return adapter.validate_python(raw)
    except ValidationError as error:
        problems = problems_of(error)
    wrong: set[int | str | None] = set()
    for location, reason in problems:
        report(location, reason)
        wrong.add(location[1] if location[:1] == (key,) and location[1:] else None)
    if None in wrong:
        return None
    entries = [entry for place, entry in enumerate(raw[key]) if place not in wrong]
    return adapter.validate_python({**raw, key: entries})


def problems_of(error: ValidationError) -> list[tuple[Location, str]]:
    """Return where something is wrong, and what."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return [(each["loc"], _REASONS.get(each["type"], each["msg"])) for each in problems]


# in the words of JSON
_REASONS: Final = {
    "model_type": "Input should be an object",
    "list_type": "Input should be an array",
}


def place_of(location: Location) -> str:
    """Return a place in a document as one would write it in a program."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return "".join(steps).removeprefix(".")
