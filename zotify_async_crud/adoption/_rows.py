"""What the original's rows are in this library's tables.

A value that has one sensible meaning is mended and noted, and for any other the whole adoption is
refused: nothing is lost in silence.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from itertools import count, groupby
from operator import attrgetter
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import Field, TypeAdapter
from sqlalchemy import Double, Row, String, Text
from sqlalchemy.exc import DBAPIError

from zotify_async_crud import _validation as check
from zotify_async_crud import fields
from zotify_async_crud._dialects import Types, translate
from zotify_async_crud._dialects.types import UTCDateTime
from zotify_async_crud._statements import _given as given
from zotify_async_crud.adoption._ledger import Ledger, shown
from zotify_async_crud.adoption._original import ASSOCIATION
from zotify_async_crud.crud._diff import GAP
from zotify_async_crud.errors import AdoptionRefused, DatabaseError, InvalidValue, LoginRequired
from zotify_async_crud.fields import JOB_ID_MAX_LENGTH
from zotify_async_crud.schemas import FINISHED, DownloadJobStatus

T = TypeVar("T")

Values: TypeAlias = tuple[Any, ...]

JOB: Final[Types] = {
    "job_id": String(),
    "track_id": String(),
    "status": String(),
    "progress": Double(),
    "created_at": UTCDateTime(),
    "error_message": Text(),
    "available_at": UTCDateTime(),
    "finished_at": UTCDateTime(),
}
TRACK: Final = given.TRACK_DATA
PLAYLIST: Final[Types] = {"id": String(), "name": Text()}
ENTRY: Final = given.ENTRY

_Ids: TypeAlias = TypeAdapter[str]

_JOB_ID: Final[_Ids] = TypeAdapter(Annotated[fields.Id, Field(max_length=JOB_ID_MAX_LENGTH)])
_INSTANT: Final[TypeAdapter[dt.datetime]] = TypeAdapter(fields.Instant)

_NO_TEXT: Final = "what cannot be read, such as a text that is not UTF-8"

# as the driver gives those of PostgreSQL
_INFINITE: Final = frozenset({dt.datetime.min, dt.datetime.max})  # noqa: DTZ901 - without a zone


def fetched(table: str, fetch: Callable[[], T]) -> T:
    """Return what *fetch*, which reads rows of *table*, returns.

    Raises:
        AdoptionRefused: The driver has no Python for a value, of which nothing is in the error.
    """
    try:
        return fetch()
    except OverflowError:
        problem = "a datetime that is not between the years 1 and 9999"
    except LoginRequired:  # a token's text
        problem = _NO_TEXT
    except DBAPIError as error:
        if type(translate(error)) is not DatabaseError:  # it tells what is wrong
            raise
        problem = _NO_TEXT
    # outside the except block: the driver's error may show a part of a token
    raise AdoptionRefused(f"{table} holds {problem}")


class Reader:
    """Reads the values of one table's rows."""

    def __init__(self, table: str, ledger: Ledger) -> None:
        self._table, self.ledger = table, ledger

    def note(self, column: str, what: str, key: object) -> None:
        """Note *what* was done about the value in *column* of the row that has *key*."""
        self.ledger.note_row(f"{self._table}.{column} {what}", key)

    def refusal(self, column: str, reason: str, key: object) -> AdoptionRefused:
        """Return the error about the value in *column* of the row that has *key*."""
        return AdoptionRefused(f"{self._table}.{column} of {shown(key)}: {reason}")

    def id(self, column: str, value: Any, key: object, adapter: _Ids = check.ID) -> str:
        """Return an identifier."""
        try:
            return check.validated(column, adapter, value)
        except InvalidValue as error:
            raise self.refusal(column, error.reason, key) from None

    def text(self, column: str, value: Any, key: object) -> str | None:
        """Return a text, which may be missing."""
        if value is None or (isinstance(value, str) and "\0" not in value):
            return value
        if not isinstance(value, str):
            raise self.refusal(column, "Input should be a text", key)
        self.note(column, "has NUL characters, which are left out", key)
        return value.replace("\0", "")

    def instant(self, column: str, value: Any, key: object) -> dt.datetime:
        """Return a moment."""
        try:
            return check.validated(column, _INSTANT, self._aware(column, value))
        except ValueError:
            reason = "Input should be a datetime between the years 1 and 9999"
            raise self.refusal(column, reason, key) from None

    def _aware(self, column: str, value: Any) -> Any:
        """Return what may be a datetime; one that has no time zone is taken as UTC."""
        found = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
        if not isinstance(found, dt.datetime) or found.tzinfo or found in _INFINITE:
            return found
        self.ledger.note(f"{self._table}.{column} has no time zone, and is taken as UTC")
        return found.replace(tzinfo=dt.UTC)

    def share(self, column: str, value: Any, key: object) -> float:
        """Return a progress."""
        if isinstance(value, int | float) and 0 <= value <= 1:
            return float(value)
        self.note(column, "is not between 0 and 1, and is 0 now", key)
        return 0.0


def jobs(found: Iterable[Row[Any]], ledger: Ledger) -> Iterator[Values]:
    """Yield jobs, as ``JOB`` names their values; what was in progress is in the queue again."""
    reader = Reader("download_jobs", ledger)
    for row in found:
        status = _status(reader, row)
        was_running = status is DownloadJobStatus.IN_PROGRESS
        if was_running:
            status = DownloadJobStatus.PENDING
        ledger.jobs[status] += 1
        ledger.requeued += was_running
        created_at = _created_at(reader, row)
        yield (
            reader.id("job_id", row.job_id, row.job_id, _JOB_ID),
            reader.id("track_id", row.track_id, row.job_id),
            status.value,
            0.0 if was_running else reader.share("progress", row.progress, row.job_id),
            created_at,
            reader.text("error_message", row.error_message, row.job_id),
            _available_at(reader, row, status, created_at),
            ledger.now if status in FINISHED else None,
        )


def _status(reader: Reader, row: Row[Any]) -> DownloadJobStatus:
    try:
        return DownloadJobStatus(str(row.status).lower())
    except ValueError:
        reason = f"Input should be one of {', '.join(DownloadJobStatus)}"
        raise reader.refusal("status", reason, row.job_id) from None


def _created_at(reader: Reader, row: Row[Any]) -> dt.datetime:
    if row.created_at is not None:
        return reader.instant("created_at", row.created_at, row.job_id)
    reader.note("created_at", "is missing, and is that of the adoption now", row.job_id)
    return reader.ledger.now


def _available_at(
    reader: Reader, row: Row[Any], status: DownloadJobStatus, created_at: dt.datetime
) -> dt.datetime | None:
    """Return from when on a job is due that would not be before a clock has come so far."""
    if status is not DownloadJobStatus.PENDING or created_at <= reader.ledger.now:
        return None
    reader.note("created_at", "is in the future, and the job is due now", row.job_id)
    return reader.ledger.now


def tracks(found: Iterable[Row[Any]], ledger: Ledger) -> Iterator[Values]:
    """Yield tracks, as ``TRACK`` names their values."""
    reader = Reader("tracks", ledger)
    for row in found:
        details = (reader.text(key, row[place], row.id) for place, key in _DETAILS)
        yield reader.id("id", row.id, row.id), *details


_DETAILS: Final = tuple(enumerate(TRACK))[1:]


def missing_tracks(found: Iterable[Row[Any]], ledger: Ledger) -> Iterator[Values]:
    """Yield the tracks of entries of which nothing but the id is known."""
    reader = Reader(ASSOCIATION, ledger)
    for row in found:
        reader.note("track_id", "names a track that there was not, and is now", row.track_id)
        yield reader.id("track_id", row.track_id, row.track_id), None, None, None


def playlists(found: Iterable[Row[Any]], ledger: Ledger) -> Iterator[Values]:
    """Yield playlists, as ``PLAYLIST`` names their values."""
    reader = Reader("playlists", ledger)
    for row in found:
        name = reader.text("name", row.name, row.id)
        if name is None:
            reader.note("name", "is missing, and is empty now", row.id)
        yield reader.id("id", row.id, row.id), name or ""


def entries(found: Iterable[Row[Any]], ledger: Ledger) -> Iterator[Values]:
    """Yield the entries of playlists, as ``ENTRY`` names their values; *found* is in their order.

    They are as far apart as in a playlist that was synchronised.
    """
    reader = Reader(ASSOCIATION, ledger)
    for playlist_id, rows in groupby(found, attrgetter("playlist_id")):
        positions = count(step=GAP)
        for row in rows:
            if row.playlist is None:
                reader.note("playlist_id", "names no playlist: the entry is left out", playlist_id)
            elif row.track_id is None:
                reader.note("track_id", "names no track: the entry is left out", playlist_id)
            else:
                yield next(positions), row.track_id, playlist_id
                ledger.note(f"{ASSOCIATION} has no order: tracks come as they were stored")
