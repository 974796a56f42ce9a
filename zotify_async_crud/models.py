"""Tables, constraints and indexes; no queries.

``Base.metadata`` holds all tables. Every rule about the data is a constraint of the schema, and
every column that has a sensible default has it in the schema, so that plain SQL can insert.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Enum,
    ForeignKey,
    MetaData,
    SmallInteger,
    String,
    Text,
    false,
    inspect,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, validates
from uuid_utils import uuid7

from zotify_async_crud._dialects.types import (
    CLUSTERED,
    Real,
    UTCDateTime,
    UTCNow,
    identifier,
    index_on,
    partial_index,
    sized,
    tune_for_updates,
)
from zotify_async_crud._secrets import SecretValue
from zotify_async_crud.encryption import SealedText
from zotify_async_crud.errors import InvalidValue, TracksNotLoaded
from zotify_async_crud.fields import (
    DEFAULT_MAX_ATTEMPTS,
    ID_MAX_LENGTH,
    JOB_ID_MAX_LENGTH,
    PRIORITY_MAX,
    PRIORITY_MIN,
    UUID_LENGTH,
    WORKER_ID_MAX_LENGTH,
)
from zotify_async_crud.schemas import DownloadJobStatus

__all__ = [
    "Base",
    "DownloadJob",
    "DownloadQueue",
    "Playlist",
    "PlaylistTrack",
    "SpotifyToken",
    "Track",
]

SPOTIFY_ID: Final = identifier(ID_MAX_LENGTH)
STATUS: Final = Enum(
    DownloadJobStatus,
    native_enum=False,  # a new status must not need ALTER TYPE
    length=16,
    values_callable=lambda statuses: [status.value for status in statuses],
)


UNIQUE_JOBS: Final = "is_unique AND status IN ('pending', 'in_progress')"
"""Of the jobs that fit, a track has at most one."""

UNIQUE_INDEX: Final = "uq_download_jobs_track"


_PRIORITIES: Final = f"priority BETWEEN {PRIORITY_MIN} AND {PRIORITY_MAX}"


def _one_of(statuses: type[DownloadJobStatus]) -> str:
    return "status IN ({})".format(", ".join(f"'{status.value}'" for status in statuses))


class Base(DeclarativeBase):
    """Base of the library's tables; its ``metadata`` can stand beside an application's own."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )


class DownloadJob(Base):
    """One download to do, being done, or done."""

    __tablename__ = "download_jobs"

    job_id: Mapped[str] = mapped_column(
        identifier(JOB_ID_MAX_LENGTH), primary_key=True, insert_default=lambda: str(uuid7())
    )
    track_id: Mapped[str] = mapped_column(SPOTIFY_ID)
    status: Mapped[DownloadJobStatus] = mapped_column(
        STATUS, server_default=DownloadJobStatus.PENDING.value
    )
    progress: Mapped[float] = mapped_column(Real, server_default="0")
    created_at: Mapped[dt.datetime] = mapped_column(UTCDateTime, server_default=UTCNow())
    error_message: Mapped[str | None] = mapped_column(Text)

    priority: Mapped[int] = mapped_column(SmallInteger, server_default="0")
    available_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    attempt: Mapped[int] = mapped_column(server_default="0")
    max_attempts: Mapped[int] = mapped_column(server_default=str(DEFAULT_MAX_ATTEMPTS))
    is_unique: Mapped[bool] = mapped_column(Boolean, server_default=false())
    worker_id: Mapped[str | None] = mapped_column(String(WORKER_ID_MAX_LENGTH))
    # no index holds what a renewal changes, so that PostgreSQL can update in place
    lease_expires_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    cancel_requested: Mapped[bool] = mapped_column(Boolean, server_default=false())
    started_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    finished_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)

    __table_args__ = (
        *sized("job_id", JOB_ID_MAX_LENGTH),
        *sized("track_id", ID_MAX_LENGTH),
        *sized("worker_id", WORKER_ID_MAX_LENGTH),
        CheckConstraint(_one_of(DownloadJobStatus), name="status"),
        CheckConstraint("progress BETWEEN 0 AND 1", name="progress"),
        # PostgreSQL's small integer can be nothing else
        CheckConstraint(_PRIORITIES, name="priority").ddl_if(dialect="sqlite"),
        CheckConstraint("attempt >= 0", name="attempt"),
        CheckConstraint("max_attempts >= 1", name="max_attempts"),
        CheckConstraint(
            "lease_expires_at IS NULL OR (status = 'in_progress' AND worker_id IS NOT NULL)",
            name="lease",
        ),
        # PostgreSQL writes an entry whenever a job changes its status: the shorter, the better. On
        # SQLite all jobs of a list have the same created_at.
        index_on("sqlite", "ix_download_jobs_created", "created_at", "job_id"),
        index_on("postgresql", "ix_download_jobs_created_at", "created_at"),
        partial_index(
            "ix_download_jobs_pending",
            "priority DESC",
            "coalesce(available_at, created_at)",
            "job_id",
            where="status = 'pending'",
        ),
        # One small index for each status that is looked for while a million jobs are completed.
        *(
            partial_index(
                f"ix_download_jobs_{status.value}",
                "created_at",
                "job_id",
                where=f"status = '{status.value}'",
            )
            for status in (
                DownloadJobStatus.IN_PROGRESS,
                DownloadJobStatus.FAILED,
                DownloadJobStatus.CANCELLED,
            )
        ),
        partial_index("ix_download_jobs_finished", "finished_at", where="finished_at IS NOT NULL"),
        partial_index(UNIQUE_INDEX, "track_id", where=UNIQUE_JOBS, unique=True),
    )

    def __repr__(self) -> str:
        return _repr(self, "job_id", "track_id", "status", "progress")


class DownloadQueue(Base):
    """Whether the queue hands out jobs; without a row it does."""

    __tablename__ = "download_queue"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, server_default="1")
    paused: Mapped[bool] = mapped_column(Boolean, server_default=false())

    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    def __repr__(self) -> str:
        return _repr(self, "paused")


class Track(Base):
    """A Spotify track; what is not known of it yet is None."""

    __tablename__ = "tracks"

    id: Mapped[str] = mapped_column(SPOTIFY_ID, primary_key=True)
    name: Mapped[str | None] = mapped_column(Text)
    artist: Mapped[str | None] = mapped_column(Text)
    album: Mapped[str | None] = mapped_column(Text)

    __table_args__ = sized("id", ID_MAX_LENGTH)

    def __repr__(self) -> str:
        return _repr(self, "id", "name")


class PlaylistTrack(Base):
    """One place in a playlist. A track may stand in several.

    Positions only order the places: there are gaps between them, and some are below zero.
    """

    __tablename__ = "playlist_tracks"

    playlist_id: Mapped[str] = mapped_column(
        SPOTIFY_ID, ForeignKey("playlists.id", ondelete="CASCADE"), primary_key=True
    )
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    track_id: Mapped[str] = mapped_column(
        SPOTIFY_ID, ForeignKey("tracks.id", ondelete="CASCADE"), index=True
    )

    track: Mapped[Track] = relationship(lazy="joined", innerjoin=True)

    __table_args__ = (CLUSTERED,)

    def __repr__(self) -> str:
        return _repr(self, "playlist_id", "position", "track_id")


class Playlist(Base):
    """A playlist and its tracks, which are always read in one statement with it.

    One statement is one snapshot: a reader sees the playlist before or after a replacement, never
    between. For the same reason a query for several needs ``.unique()``; one that does not want the
    tracks says ``.options(raiseload(Playlist.entries))``.
    """

    __tablename__ = "playlists"

    id: Mapped[str] = mapped_column(SPOTIFY_ID, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    snapshot_id: Mapped[str | None] = mapped_column(Text)

    entries: Mapped[list[PlaylistTrack]] = relationship(
        lazy="joined",
        order_by=PlaylistTrack.position,
        viewonly=True,  # written by crud.playlist_sync
    )

    __table_args__ = (
        *sized("id", ID_MAX_LENGTH),
        CheckConstraint("snapshot_id <> ''", name="snapshot_id"),
    )

    @property
    def tracks(self) -> list[Track]:
        """The tracks in the playlist's order; one that stands there twice comes twice.

        Raises:
            TracksNotLoaded: The query for this object left the tracks out.
        """
        if "entries" in inspect(self).unloaded:
            raise TracksNotLoaded
        return [entry.track for entry in self.entries]

    def __repr__(self) -> str:
        return _repr(self, "id", "name")


class SpotifyToken(Base):
    """The one OAuth token. Neither it nor its values show in reprs, logs or echoed statements.

    Each login has a ``login_id`` of its own. ``version`` grows with each login and refresh, and
    ``updated_at`` is when the last was stored, or asked for by a refresh.
    The rest is of ``token_refresh.get_valid_spotify_token``: who refreshes has ``lease_version``,
    and the lease until ``lease_expires_at``; after a failure nobody tries before ``retry_at``; a
    token that cannot be refreshed any more ``needs_login``.
    """

    __tablename__ = "spotify_tokens"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, server_default="1")
    access_token: Mapped[str] = mapped_column(SealedText("spotify_tokens.access_token.1"))
    refresh_token: Mapped[str] = mapped_column(SealedText("spotify_tokens.refresh_token.1"))
    expires_at: Mapped[dt.datetime] = mapped_column(UTCDateTime)
    scope: Mapped[str | None] = mapped_column(Text)
    token_type: Mapped[str | None] = mapped_column(Text)
    login_id: Mapped[str] = mapped_column(identifier(UUID_LENGTH), server_default=text("''"))
    updated_at: Mapped[dt.datetime] = mapped_column(UTCDateTime, server_default=UTCNow())
    version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    lease_version: Mapped[int] = mapped_column(BigInteger, server_default="1")
    lease_expires_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    failures: Mapped[int] = mapped_column(server_default="0")
    failure: Mapped[str | None] = mapped_column(Text)
    retry_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime)
    needs_login: Mapped[bool] = mapped_column(Boolean, server_default=false())

    __table_args__ = (
        CheckConstraint("id = 1", name="single"),
        CheckConstraint("access_token <> ''", name="access_token"),
        CheckConstraint("refresh_token <> ''", name="refresh_token"),
    )

    @validates("access_token", "refresh_token")
    def _hide(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            del value  # a traceback may show locals
            raise InvalidValue(field, "Input should be a valid string")
        return SecretValue(value)  # before it can show in the error of a statement that never ran

    def __repr__(self) -> str:
        return _repr(self, "id", "expires_at")


tune_for_updates(Base.metadata.tables[DownloadJob.__tablename__])


def _repr(instance: Base, *names: str) -> str:
    """Show what is loaded; a repr must never send SQL."""
    loaded: dict[str, Any] = inspect(instance).dict
    shown = ", ".join(f"{name}={loaded[name]!r}" for name in names if name in loaded)
    return f"{type(instance).__name__}({shown})"
