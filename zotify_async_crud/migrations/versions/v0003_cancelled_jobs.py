"""Cancelled jobs are found among a million others."""

from __future__ import annotations

from sqlalchemy import Column, MetaData, Table

from zotify_async_crud._dialects.types import partial_index
from zotify_async_crud.migrations.operations import build_index, drop_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NAME = "ix_download_jobs_cancelled"


def upgrade() -> None:
    """Build the index beside the workers."""
    index = partial_index(NAME, "created_at", "job_id", where="status = 'cancelled'")
    Table("download_jobs", MetaData(), Column("created_at"), Column("job_id"), index)
    build_index(index)


def downgrade() -> None:
    """Drop the index."""
    drop_index(NAME)
