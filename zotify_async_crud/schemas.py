"""What goes in and comes out as data: pydantic models, and the limits of every value."""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationInfo,
    field_validator,
)
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


TrackIds = Annotated[
    list[Annotated[str, Strict(), Field(min_length=1, max_length=ID_MAX_LENGTH)]],
    BeforeValidator(_ordered),
    AfterValidator(_without_nul),
    Field(max_length=PLAYLIST_MAX_TRACKS),
]


class DownloadJobStatus(StrEnum):
    """Where a download job stands."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINISHED: Final = frozenset(
    {DownloadJobStatus.COMPLETED, DownloadJobStatus.FAILED, DownloadJobStatus.CANCELLED}
)
"""What a job is when nothing more happens to it by itself."""


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise PydanticCustomError("status_type", "Input should be a DownloadJobStatus")
    return value


Status = Annotated[DownloadJobStatus, BeforeValidator(_text)]


class DownloadJobCreate(BaseModel):
    """A download to enqueue.

    ``priority`` goes from -32,768 to 32,767; the highest is taken first, and among equals the one
    that has been due for longest. A job with an ``available_at`` is not due before. A job that
    fails or loses its worker is tried again until it has had ``max_attempts``. Of all jobs that are
    ``unique``, at most one for a track is pending or in progress.

    Raises:
        pydantic.ValidationError: A value does not fit: ``track_id`` is empty, longer than
            ``ID_MAX_LENGTH``, or holds a NUL character or a lone surrogate; ``available_at`` has no
            time zone; a number is out of its range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", revalidate_instances="always")

    track_id: Id
    priority: Priority = 0
    available_at: Instant | None = None
    max_attempts: Attempts = DEFAULT_MAX_ATTEMPTS
    unique: Annotated[bool, Strict()] = False


class OnDuplicate(StrEnum):
    """What becomes of a unique job whose track has one that is pending or in progress already."""

    EXISTING = "existing"
    """The existing job is returned instead."""

    SKIP = "skip"
    """It is left out."""

    ERROR = "error"
    """``DownloadJobExists`` is raised."""


def _policy(value: object) -> object:
    if not isinstance(value, str):
        raise PydanticCustomError("policy_type", "Input should be 'existing', 'skip' or 'error'")
    return value


DuplicatePolicy = Annotated[OnDuplicate, BeforeValidator(_policy)]


class DownloadJob(BaseModel):
    """A download job as a web handler returns it: ``DownloadJob.model_validate(job)``."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    job_id: str
    track_id: str
    status: DownloadJobStatus
    progress: float
    created_at: dt.datetime
    error_message: str | None
    priority: int
    available_at: dt.datetime | None
    attempt: int
    max_attempts: int
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    cancel_requested: bool


class Claim(NamedTuple):
    """A worker's right to do one attempt at a job, until its lease ends.

    ``attempt`` is the fencing token: every claim of a job has a higher one, and what is written for
    an earlier claim is refused.
    """

    job_id: str
    track_id: str
    attempt: int
    max_attempts: int
    worker_id: str
    lease_expires_at: dt.datetime


class Settlement(NamedTuple):
    """How an attempt ended."""

    claim: Claim

    outcome: DownloadJobStatus
    """``completed``, ``failed``, or ``pending`` for an attempt that is given back."""

    error: str | None = None

    retry_in: dt.timedelta | None = None
    """When a failed job is tried again, if it has attempts left; None: it is not."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came of settling jobs and claiming the next at once."""

    claims: list[Claim]

    lost: list[Claim]
    """Claims that did not hold any more: what they were to be settled with was not written."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of claims whose leases were renewed."""

    renewed: list[Claim]
    """They hold, with their new lease ends."""

    lost: list[Claim]
    """They hold no more: another worker may have the job. Stop working on it."""

    cancel_requested: list[Claim]
    """Of those that hold, the ones whose jobs somebody wants to be cancelled."""


@dataclass(frozen=True, slots=True)
class Rescue:
    """How many jobs were taken from workers whose leases had expired, and what they became."""

    retried: int
    failed: int
    cancelled: int


@dataclass(frozen=True, slots=True)
class DownloadQueueStats:
    """The queue at one moment. The finished jobs of the past are not counted, but the failed."""

    pending: int
    """Jobs that are due."""

    scheduled: int
    """Pending jobs that are not due yet."""

    in_progress: int
    failed: int

    completed_last_minute: int
    """Jobs completed within the last 60 seconds."""

    oldest_pending_age: dt.timedelta | None
    """For how long the job that is due for longest has been waiting; None when none is due."""

    paused: bool

    @property
    def rate(self) -> float:
        """Jobs completed in a second, over the last minute."""
        return self.completed_last_minute / 60


class TrackData(BaseModel):
    """What is known of a track; None is what is not."""

    model_config = ConfigDict(frozen=True, revalidate_instances="always")

    id: Id
    name: Name | None = None
    artist: Name | None = None
    album: Name | None = None


class PlaylistData(BaseModel):
    """A playlist as it is to be: its tracks in order, duplicates included.

    ``snapshot_id`` is the version that Spotify gives for it (``GET /playlists/{id}``), where known.
    """

    model_config = ConfigDict(frozen=True, revalidate_instances="always")

    id: Id
    name: Name
    track_ids: TrackIds
    snapshot_id: SnapshotId | None = None


@dataclass(frozen=True, slots=True)
class SyncResult:
    """What a sync of playlists changed; results add up."""

    playlists_created: int = 0

    playlists_updated: int = 0
    """Their names or their tracks were others before."""

    playlists_unchanged: int = 0
    playlists_removed: int = 0

    tracks_created: int = 0
    """Tracks that were in no playlist before, nor known otherwise."""

    entries_added: int = 0
    entries_moved: int = 0
    entries_removed: int = 0
    """Places in playlists that still exist. A track has as many as it stands there times."""

    def __add__(self, other: SyncResult) -> SyncResult:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return SyncResult(*(one + another for one, another in pairs))


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

    ``expires_at`` is an aware datetime or seconds since the epoch. Without it, the token lives for
    ``expires_in`` seconds from now, by the database's clock. What else is absent or null stays as
    it is stored: the ``refresh_token`` (https://www.rfc-editor.org/rfc/rfc6749#section-6), the
    ``scope`` and the ``token_type``.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    access_token: Token = Field(repr=False)
    refresh_token: Token | None = Field(default=None, repr=False)
    expires_in: Duration | None = None
    expires_at: InstantOrEpoch | None = Field(default=None, validate_default=True)
    scope: Scope | None = None
    token_type: Scope | None = None

    @field_validator("expires_at")
    @classmethod
    def _expires(cls, value: dt.datetime | None, info: ValidationInfo) -> dt.datetime | None:
        if value is None and info.data.get("expires_in") is None:
            raise PydanticCustomError("missing", "Field required, or expires_in")
        return value
