"""What an adoption has counted, and what it had to say about odd rows."""

from __future__ import annotations

import datetime as dt
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from zotify_async_crud.schemas import DownloadJobStatus

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = 80


@dataclass(frozen=True, slots=True)
class AdoptionReport:
    """What was taken over, or would be."""

    nothing_to_do: bool = False
    """The tables are this library's already."""

    jobs: Mapping[DownloadJobStatus, int] = field(default_factory=dict)
    """How many jobs have each status now; without those that none has."""

    requeued: int = 0
    """How many of the pending jobs were in progress."""

    tracks: int = 0

    playlists: int = 0

    entries: int = 0
    """Places in playlists."""

    token: bool = False
    """Whether there is a token."""

    left_out_tokens: int = 0
    """Tokens that were not the newest, or that nobody could use."""

    notes: tuple[str, ...] = ()
    """What was mended, left out or taken for granted: a line each, with the first row of its kind.

    No token is in them.
    """


@dataclass(slots=True)
class Ledger:
    """What is counted and noted while rows are taken over, all at one moment of the database's."""

    now: dt.datetime
    jobs: Counter[DownloadJobStatus] = field(default_factory=Counter)
    requeued: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    left_out_tokens: int = 0
    _first: dict[str, str | None] = field(default_factory=dict)
    _times: Counter[str] = field(default_factory=Counter)

    def note(self, line: str) -> None:
        """Keep *line*, which is about all rows."""
        self._first.setdefault(line, None)

    def note_row(self, line: str, key: object) -> None:
        """Keep *line*, which is about the row that has *key*, and perhaps about others."""
        self._first.setdefault(line, shown(key))
        self._times[line] += 1

    def report(self, *, token: bool) -> AdoptionReport:
        """Return all of it."""
        return AdoptionReport(
            jobs=dict(self.jobs),
            requeued=self.requeued,
            tracks=self.rows["tracks"],
            playlists=self.rows["playlists"],
            entries=self.rows["playlist_tracks"],
            token=token,
            left_out_tokens=self.left_out_tokens,
            notes=tuple(self._lines()),
        )

    def _lines(self) -> Iterator[str]:
        for line, first in self._first.items():
            rows = self._times[line]
            yield f"{line} (rows: {rows}, the first: {first})" if rows else line


def shown(key: object) -> str:
    """Return *key* as a message shows it, short and in one line."""
    return _SHORT.repr(key)
