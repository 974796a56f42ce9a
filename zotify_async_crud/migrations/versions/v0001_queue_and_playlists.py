"""The queue, playlists and the token."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    false,
)

from zotify_async_crud._dialects.types import (
    Real,
    UTCDateTime,
    UTCNow,
    identifier,
    partial_index,
    sized,
    tune_for_updates,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SPOTIFY_ID = identifier(255)

tables = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

download_jobs = Table(
    "download_jobs",
    tables,
    Column("job_id", identifier(36), primary_key=True),
    Column("track_id", SPOTIFY_ID, nullable=False),
    Column("status", String(16), server_default="pending", nullable=False),
    Column("progress", Real, server_default="0", nullable=False),
    Column("created_at", UTCDateTime, server_default=UTCNow(), nullable=False),
    Column("error_message", Text),
    Column("priority", SmallInteger, server_default="0", nullable=False),
    Column("available_at", UTCDateTime),
    Column("attempt", Integer, server_default="0", nullable=False),
    Column("max_attempts", Integer, server_default="5", nullable=False),
    Column("is_unique", Boolean, server_default=false(), nullable=False),
    Column("worker_id", String(255)),
    Column("lease_expires_at", UTCDateTime),
    Column("cancel_requested", Boolean, server_default=false(), nullable=False),
    Column("started_at", UTCDateTime),
    Column("finished_at", UTCDateTime),
    *sized("job_id", 36),
    *sized("track_id", 255),
    *sized("worker_id", 255),
    CheckConstraint(
        "status IN ('pending', 'in_progress', 'completed', 'failed', 'cancelled')", name="status"
    ),
    CheckConstraint("progress BETWEEN 0 AND 1", name="progress"),
    CheckConstraint("priority BETWEEN -32768 AND 32767", name="priority").ddl_if(dialect="sqlite"),
    CheckConstraint("attempt >= 0", name="attempt"),
    CheckConstraint("max_attempts >= 1", name="max_attempts"),
    CheckConstraint(
        "lease_expires_at IS NULL OR (status = 'in_progress' AND worker_id IS NOT NULL)",
        name="lease",
    ),
    Index("ix_download_jobs_created", "created_at", "job_id"),
    partial_index(
        "ix_download_jobs_pending",
        "priority DESC",
        "coalesce(available_at, created_at)",
        "job_id",
        where="status = 'pending'",
    ),
    *(
        partial_index(
            f"ix_download_jobs_{status}", "created_at", "job_id", where=f"status = '{status}'"
        )
        for status in ("in_progress", "failed")
    ),
    partial_index("ix_download_jobs_finished", "finished_at", where="finished_at IS NOT NULL"),
    partial_index(
        "uq_download_jobs_track",
        "track_id",
        where="is_unique AND status IN ('pending', 'in_progress')",
        unique=True,
    ),
)
tune_for_updates(download_jobs)

Table(
    "download_queue",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=False, server_default="1"),
    Column("paused", Boolean, server_default=false(), nullable=False),
    CheckConstraint("id = 1", name="single"),
)
Table(
    "tracks",
    tables,
    Column("id", SPOTIFY_ID, primary_key=True),
    Column("name", Text),
    Column("artist", Text),
    Column("album", Text),
    *sized("id", 255),
)
Table(
    "playlists",
    tables,
    Column("id", SPOTIFY_ID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("snapshot_id", Text),
    *sized("id", 255),
    CheckConstraint("snapshot_id <> ''", name="snapshot_id"),
)
Table(
    "playlist_tracks",
    tables,
    Column(
        "playlist_id", SPOTIFY_ID, ForeignKey("playlists.id", ondelete="CASCADE"), primary_key=True
    ),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column(
        "track_id",
        SPOTIFY_ID,
        ForeignKey("tracks.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sqlite_with_rowid=False,
)
Table(
    "spotify_tokens",
    tables,
    Column("id", Integer, primary_key=True, autoincrement=False, server_default="1"),
    Column("access_token", Text, nullable=False),
    Column("refresh_token", Text, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
    CheckConstraint("id = 1", name="single"),
    CheckConstraint("access_token <> ''", name="access_token"),
    CheckConstraint("refresh_token <> ''", name="refresh_token"),
)


def upgrade() -> None:
    """Create all tables."""
    tables.create_all(op.get_bind(), checkfirst=False)


def downgrade() -> None:
    """Drop all tables, and with them all that they hold."""
    tables.drop_all(op.get_bind(), checkfirst=False)
