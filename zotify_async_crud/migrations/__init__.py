"""The schema: made, brought to the revision that this version needs, and checked.

Any number of processes may call ``upgrade`` when they start; one of them does the work. On SQLite
it is one transaction. On PostgreSQL each revision is one, so that workers go on meanwhile: no
statement of theirs waits longer than a moment, and what was broken off goes on at the next call.
"""

from __future__ import annotations

from zotify_async_crud.migrations._changes import downgrade, upgrade
from zotify_async_crud.migrations._checks import check_schema, current_revision
from zotify_async_crud.migrations._revisions import VERSION_TABLE, newest_revision
from zotify_async_crud.migrations._tables import is_no_table_of_ours, is_not_ours

__all__ = [
    "VERSION_TABLE",
    "check_schema",
    "current_revision",
    "downgrade",
    "is_no_table_of_ours",
    "is_not_ours",
    "newest_revision",
    "upgrade",
]
