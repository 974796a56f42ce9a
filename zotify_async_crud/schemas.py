"""What goes in and comes out as data: pydantic models."""

from __future__ import annotations

import datetime as dt
from dataclasses import astuple, dataclass
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from zotify_async_crud.fields import (
    DEFAULT_MAX_ATTEMPTS,
    Attempts,
    Duration,
    Id,
    Instant,
    InstantOrEpoch,
    Name,
    Priority,
    Scope,
    SnapshotId,
    Token,
    TrackIds,
)


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
            ``fields.ID_MAX_LENGTH``, or holds a NUL character or a lone surrogate; ``available_at``
            has no time zone; a number is out of its range.
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

    The coroutine validates what it is given. Whoever makes one of these by hand must know that
    pydantic's ``ValidationError.errors()`` has the input, of which its text shows nothing.
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
