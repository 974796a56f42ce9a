"""PostgreSQL writes less whenever a job changes its status."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Index, MetaData, Table

from zotify_async_crud.migrations.operations import replace_index

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

LONG = "ix_download_jobs_created"
SHORT = "ix_download_jobs_created_at"


def upgrade() -> None:
    """Replace the index of all jobs by one without their ids, beside the workers."""
    if _is_postgresql():
        replace_index(LONG, _index(SHORT, "created_at"))


def downgrade() -> None:
    """Bring the ids back."""
    if _is_postgresql():
        replace_index(SHORT, _index(LONG, "created_at", "job_id"))


def _is_postgresql() -> bool:
    return op.get_context().dialect.name == "postgresql"


def _index(name: str, *columns: str) -> Index:
    index = Index(name, *columns)
    Table("download_jobs", MetaData(), *map(Column, columns), index)
    return index
