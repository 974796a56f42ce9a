"""PostgreSQL writes less whenever a job changes its status."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Index, MetaData, Table

from zotify_async_crud.migrations.operations import build_index, drop_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LONG = "ix_download_jobs_created"
SHORT = "ix_download_jobs_created_at"


def upgrade() -> None:
    """Replace the index of all jobs by one without their ids, beside the workers."""
    if _is_postgresql():
        build_index(_index(SHORT, "created_at"))
        drop_index(LONG)


def downgrade() -> None:
    """Bring the ids back."""
    if _is_postgresql():
        build_index(_index(LONG, "created_at", "job_id"))
        drop_index(SHORT)


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _index(name: str, *columns: str) -> Index:
    index = Index(name, *columns)
    Table("download_jobs", MetaData(), *map(Column, columns), index)
    return index
