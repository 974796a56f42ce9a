"""Alembic's environment: how revisions run on the connection that they are given."""

from __future__ import annotations

from alembic import context

context.configure(**context.config.attributes["options"])
with context.begin_transaction():
    context.run_migrations()
