"""What a token's login and its refreshing need."""

from __future__ import annotations

from typing import Any

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Integer,
    MetaData,
    Table,
    Text,
    false,
)

from zotify_async_crud._dialects.types import UTCDateTime, UTCNow, identifier

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _added() -> list[Column[Any]]:
    return [
        Column("scope", Text),
        Column("token_type", Text),
        Column("login_id", identifier(36), server_default="", nullable=False),
        Column("updated_at", UTCDateTime, server_default=UTCNow(), nullable=False),
        Column("version", BigInteger, server_default="1", nullable=False),
        Column("lease_version", BigInteger, server_default="1", nullable=False),
        Column("lease_expires_at", UTCDateTime),
        Column("failures", Integer, server_default="0", nullable=False),
        Column("failure", Text),
        Column("retry_at", UTCDateTime),
        Column("needs_login", Boolean, server_default=false(), nullable=False),
    ]


def _tokens(*added: Column[Any]) -> Table:
    """Return the table as SQLite has to make it anew; what it reflects lacks the checks."""
    return Table(
        "spotify_tokens",
        MetaData(naming_convention={"pk": "pk_%(table_name)s"}),
        Column("id", Integer, primary_key=True, autoincrement=False, server_default="1"),
        Column("access_token", Text, nullable=False),
        Column("refresh_token", Text, nullable=False),
        Column("expires_at", UTCDateTime, nullable=False),
        *added,
        CheckConstraint("id = 1", name="ck_spotify_tokens_single"),
        CheckConstraint("access_token <> ''", name="ck_spotify_tokens_access_token"),
        CheckConstraint("refresh_token <> ''", name="ck_spotify_tokens_refresh_token"),
    )


def upgrade() -> None:
    """Add the columns to a token that stays."""
    with op.batch_alter_table("spotify_tokens", copy_from=_tokens()) as batch:
        for column in _added():
            batch.add_column(column)


def downgrade() -> None:
    """Drop the columns; the token stays."""
    with op.batch_alter_table("spotify_tokens", copy_from=_tokens(*_added())) as batch:
        for column in _added():
            batch.drop_column(column.name)
