"""What a revision does to a table that is in use."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

from alembic import op
from sqlalchemy import Index

from zotify_async_crud._dialects import Database, database_for

__all__ = ["build_index", "drop_index", "replace_index"]


def build_index(index: Index) -> None:
    """Build *index* on its table, beside those who write there if the database can.

    What the revision did before it is committed then, so that it should do nothing else.
    """
    database = database_for(op.get_context().dialect)
    with _outside_of_transactions(database):
        database.build_index(op.get_bind(), index)


def replace_index(name: str, index: Index) -> None:
    """Build *index* unless it is there, and then drop the one called *name*.

    What was broken off in between goes on from there, and no reader is without either of them.
    """
    database = database_for(op.get_context().dialect)
    if index.name not in database.indexes(op.get_bind()):
        build_index(index)
    drop_index(name)


def drop_index(name: str) -> None:
    """Drop the index, as ``build_index`` builds one."""
    database = database_for(op.get_context().dialect)
    with _outside_of_transactions(database):
        database.drop_index(op.get_bind(), name)


def _outside_of_transactions(database: Database) -> AbstractContextManager[None]:
    if database.indexes_beside_writers:
        return op.get_context().autocommit_block()
    return contextlib.nullcontext()
