"""Lists of values that statements work on.

A statement about a list is put together once for each shape that the list can have, and then
executed with different parameters: to put it together costs SQLAlchemy more than the database takes
to run it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Boolean, Double, Integer, String, Text
from sqlalchemy.sql import Executable

from zotify_async_crud._dialects import Columns, Database, Types
from zotify_async_crud._dialects.types import UTCDateTime
from zotify_async_crud.schemas import Claim, DownloadJobCreate, Settlement

NAME: Final = "given"

CLAIM: Final[Types] = {"job_id": String(), "attempt": Integer(), "worker_id": String()}
REPORT: Final[Types] = {**CLAIM, "progress": Double()}
SETTLEMENT: Final[Types] = {
    **CLAIM,
    "outcome": String(),
    "error": String(),
    "retry_in": Double(),
}
JOB: Final[Types] = {
    "job_id": String(),
    "track_id": String(),
    "priority": Integer(),
    "available_at": UTCDateTime(),
    "max_attempts": Integer(),
    "is_unique": Boolean(),
}
DEFAULT_JOB: Final[Types] = {"job_id": String(), "track_id": String()}
TRACK: Final[Types] = {"track_id": String()}
TRACK_DATA: Final[Types] = {"id": String(), "name": Text(), "artist": Text(), "album": Text()}
PLAYLIST: Final[Types] = {"id": String(), "name": Text(), "snapshot_id": Text()}
# The playlist comes first, so that it is a column also where it is always the same. As a parameter
# it would make PostgreSQL expect one row, and go through all that is given for each that it finds.
PLACE: Final[Types] = {"playlist_id": String(), "position": BigInteger()}
MOVE: Final[Types] = {**PLACE, "new_position": BigInteger()}
# nothing is looked for here, and all may be of one playlist
ENTRY: Final[Types] = {"position": BigInteger(), "track_id": String(), "playlist_id": String()}


class Query(NamedTuple):
    """A statement and its parameters."""

    statement: Executable
    parameters: dict[str, Any]


def claims(claims: Sequence[Claim]) -> Columns:
    """Return what fences claims."""
    return {
        "job_id": [claim.job_id for claim in claims],
        "attempt": [claim.attempt for claim in claims],
        "worker_id": [claim.worker_id for claim in claims],
    }


def settlements(settlements: Sequence[Settlement]) -> Columns:
    """Return settlements and what fences them."""
    return {
        **claims([settlement.claim for settlement in settlements]),
        "outcome": [str(settlement.outcome) for settlement in settlements],
        "error": [settlement.error for settlement in settlements],
        "retry_in": [_seconds(settlement) for settlement in settlements],
    }


def _seconds(settlement: Settlement) -> float | None:
    return None if settlement.retry_in is None else settlement.retry_in.total_seconds()


def jobs(job_ids: Sequence[str], jobs: Sequence[DownloadJobCreate]) -> Columns:
    """Return new jobs."""
    return {
        "job_id": job_ids,
        "track_id": [job.track_id for job in jobs],
        "priority": [job.priority for job in jobs],
        "available_at": [job.available_at for job in jobs],
        "max_attempts": [job.max_attempts for job in jobs],
        "is_unique": [job.unique for job in jobs],
    }


def columns(types: Types, rows: Sequence[tuple[Any, ...]]) -> Columns:
    """Return *rows* by column; there is at least one."""
    return dict(zip(types, zip(*rows, strict=True), strict=True))


def varying(columns: Columns) -> frozenset[str]:
    """Return the first column, and the others whose values differ."""
    first, *others = columns
    return frozenset({first, *(key for key in others if len(set(columns[key])) > 1)})


def parameters(database: Database, columns: Columns) -> dict[str, Any]:
    """Return *columns* as the parameters of a statement."""
    return database.row_parameters(NAME, columns, varying(columns))


def query(
    build: Callable[[Database, frozenset[str]], Executable], database: Database, columns: Columns
) -> Query:
    """Return the statement that *build* makes for the shape of *columns*, and its parameters."""
    shape = varying(columns)
    return Query(build(database, shape), database.row_parameters(NAME, columns, shape))
