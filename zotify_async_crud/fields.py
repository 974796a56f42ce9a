"""The values that go in: annotated types, and the limits of each."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Annotated, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, Strict, TypeAdapter
from pydantic_core import PydanticCustomError

from zotify_async_crud._secrets import SecretValue
from zotify_async_crud.encryption import is_sealed

ID_MAX_LENGTH: Final = 255
"""Characters of a Spotify id; real ones have 22."""

UUID_LENGTH: Final = 36
"""Characters of the ids that this library gives."""

JOB_ID_MAX_LENGTH: Final = UUID_LENGTH
"""Characters of a job's id, a UUID."""

NAME_MAX_LENGTH: Final = 1_000
"""Characters of the name of a track or playlist."""

ERROR_MAX_LENGTH: Final = 65_536
"""Characters of a job's error message."""

TOKEN_MAX_LENGTH: Final = 16_384
"""Characters of an access or refresh token."""

SCOPE_MAX_LENGTH: Final = 4_096
"""Characters of the scopes and of the type of a token."""

PLAYLIST_MAX_TRACKS: Final = 1_000_000
"""Entries of one playlist; Spotify itself allows 10,000."""

SNAPSHOT_ID_MAX_LENGTH: Final = 1_000
"""Characters of the id that Spotify gives to a version of a playlist."""

PRIORITY_MIN: Final = -32_768
PRIORITY_MAX: Final = 32_767
"""The lowest and the highest priority of a job."""

ATTEMPTS_MAX: Final = 32_767
"""The most attempts that a job may be given."""

DEFAULT_MAX_ATTEMPTS: Final = 5
"""Attempts that a job has unless it says otherwise."""

DURATION_MAX: Final = dt.timedelta(days=3_650)
"""The longest lease, delay or age."""

WORKER_ID_MAX_LENGTH: Final = 255
"""Characters of a worker's id."""

_NO_NUL: Final = r"^[^\x00]*$"


def _in_utc(value: dt.datetime) -> dt.datetime:
    try:
        return value.astimezone(dt.UTC)
    except OverflowError:
        message = "Input should be between the years 1 and 9999 in UTC"
        raise PydanticCustomError("datetime_range", message) from None


def _from_epoch(value: object) -> object:
    """Read a plain number as seconds since the epoch."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return value
    with contextlib.suppress(OverflowError, ValueError, OSError):
        return dt.datetime.fromtimestamp(value, dt.UTC)
    message = "Input should be seconds since the epoch, between the years 1 and 9999"
    raise PydanticCustomError("epoch_range", message)


def _secret(value: str) -> str:
    if is_sealed(value):
        message = "Input should not contain Braille patterns, in which encrypted tokens are written"
        raise PydanticCustomError("token_characters", message)
    return SecretValue(value)


def _in_seconds(value: object) -> object:
    """Read a plain number as seconds; pydantic would also take text and booleans."""
    if isinstance(value, dt.timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError, ValueError):
            return dt.timedelta(seconds=value)
        raise PydanticCustomError("duration_range", "Input should be a finite number of seconds")
    raise PydanticCustomError("duration_type", "Input should be a timedelta or seconds")


def _lasting(value: dt.timedelta) -> dt.timedelta:
    if not value:
        raise PydanticCustomError("duration_zero", "Input should be longer than 0 seconds")
    return value


def _ordered(value: object) -> object:
    """Refuse what pydantic would take as a list: a set has no order, a str no ids."""
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("track_ids_type", "Input should be a list of track ids")
    return value


Id = Annotated[str, Strict(), Field(min_length=1, max_length=ID_MAX_LENGTH, pattern=_NO_NUL)]
Name = Annotated[str, Strict(), Field(max_length=NAME_MAX_LENGTH, pattern=_NO_NUL)]
ErrorMessage = Annotated[str, Strict(), Field(max_length=ERROR_MAX_LENGTH, pattern=_NO_NUL)]
SnapshotId = Annotated[
    str, Strict(), Field(min_length=1, max_length=SNAPSHOT_ID_MAX_LENGTH, pattern=_NO_NUL)
]
Progress = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)]
Token = Annotated[
    str,
    Strict(),
    Field(min_length=1, max_length=TOKEN_MAX_LENGTH, pattern=_NO_NUL),
    AfterValidator(_secret),
]
Scope = Annotated[str, Strict(), Field(max_length=SCOPE_MAX_LENGTH, pattern=_NO_NUL)]
Instant = Annotated[AwareDatetime, Strict(), AfterValidator(_in_utc)]
InstantOrEpoch = Annotated[Instant, BeforeValidator(_from_epoch)]
Priority = Annotated[int, Strict(), Field(ge=PRIORITY_MIN, le=PRIORITY_MAX)]
Attempts = Annotated[int, Strict(), Field(ge=1, le=ATTEMPTS_MAX)]
WorkerId = Annotated[
    str, Strict(), Field(min_length=1, max_length=WORKER_ID_MAX_LENGTH, pattern=_NO_NUL)
]
Delay = Annotated[dt.timedelta, Field(ge=dt.timedelta(0), le=DURATION_MAX)]
Duration = Annotated[Delay, BeforeValidator(_in_seconds)]
Lease = Annotated[Duration, AfterValidator(_lasting)]


_EACH_ID: Final = TypeAdapter(list[Id])


def _without_nul(ids: list[str]) -> list[str]:
    """Look for NUL characters in all at once, which takes a quarter of a pattern for each."""
    return _EACH_ID.validate_python(ids) if "\0" in "".join(ids) else ids


Ids = Annotated[
    list[Annotated[str, Strict(), Field(min_length=1, max_length=ID_MAX_LENGTH)]],
    AfterValidator(_without_nul),
]
TrackIds = Annotated[Ids, BeforeValidator(_ordered), Field(max_length=PLAYLIST_MAX_TRACKS)]
