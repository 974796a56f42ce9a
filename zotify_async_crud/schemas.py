"""What goes in and comes out as data: pydantic models, and the limits of every value."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
)
from pydantic_core import PydanticCustomError

ID_MAX_LENGTH: Final = 255
"""Characters of a Spotify id; real ones have 22."""

JOB_ID_MAX_LENGTH: Final = 36
"""Characters of a job's id, a UUID."""

NAME_MAX_LENGTH: Final = 1_000
"""Characters of the name of a track or playlist."""

ERROR_MAX_LENGTH: Final = 65_536
"""Characters of a job's error message."""

TOKEN_MAX_LENGTH: Final = 16_384
"""Characters of an access or refresh token."""

PLAYLIST_MAX_TRACKS: Final = 1_000_000
"""Entries of one playlist; Spotify itself allows 10,000."""

_NO_NUL: Final = r"^[^\x00]*$"


def _in_utc(value: dt.datetime) -> dt.datetime:
    try:
        return value.astimezone(dt.UTC)
    except OverflowError:
        message = "Input should be between the years 1 and 9999 in UTC"
        raise PydanticCustomError("datetime_range", message) from None


Id = Annotated[str, Strict(), Field(min_length=1, max_length=ID_MAX_LENGTH, pattern=_NO_NUL)]
Name = Annotated[str, Strict(), Field(max_length=NAME_MAX_LENGTH, pattern=_NO_NUL)]
ErrorMessage = Annotated[str, Strict(), Field(max_length=ERROR_MAX_LENGTH, pattern=_NO_NUL)]
Progress = Annotated[float, Strict(), Field(ge=0, le=1, allow_inf_nan=False)]
Token = Annotated[str, Strict(), Field(min_length=1, max_length=TOKEN_MAX_LENGTH, pattern=_NO_NUL)]
Instant = Annotated[AwareDatetime, Strict(), AfterValidator(_in_utc)]
TrackIds = Annotated[list[Id], Field(max_length=PLAYLIST_MAX_TRACKS)]


class DownloadJobStatus(StrEnum):
    """Where a download job stands."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise PydanticCustomError("status_type", "Input should be a DownloadJobStatus")
    return value


Status = Annotated[DownloadJobStatus, BeforeValidator(_text)]


class DownloadJobCreate(BaseModel):
    """A download to enqueue.

    Raises:
        pydantic.ValidationError: ``track_id`` is empty, longer than ``ID_MAX_LENGTH``, or holds a
            NUL character or a lone surrogate.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    track_id: Id


class DownloadJob(BaseModel):
    """A download job as a web handler returns it: ``DownloadJob.model_validate(job)``."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    job_id: str
    track_id: str
    status: DownloadJobStatus
    progress: float
    created_at: dt.datetime
    error_message: str | None


class Track(BaseModel):
    """A track as a web handler returns it."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    name: str | None
    artist: str | None
    album: str | None


class Playlist(BaseModel):
    """A playlist with its tracks in order, as a web handler returns it."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str
    name: str
    tracks: list[Track]


class SpotifyTokenData(BaseModel):
    """What a login or a token refresh answers; further keys are ignored.

    An absent or null ``refresh_token`` means that the one before stays valid
    (https://www.rfc-editor.org/rfc/rfc6749#section-6).
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    access_token: Token = Field(repr=False)
    refresh_token: Token | None = Field(default=None, repr=False)
    expires_at: Instant
