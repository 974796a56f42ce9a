"""Alembic's part: the revisions that there are, the one that a database has, and the way to it."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, String, Table, column, inspect, select, table

from zotify_async_crud.errors import InvalidValue
from zotify_async_crud.models import Base

VERSION_TABLE: Final = "zotify_alembic_version"
"""Of the library's own, so that it stands beside the one of a service that uses Alembic itself."""

_HERE: Final = Path(__file__).parent
_OPTIONS: Final[dict[str, Any]] = {
    "version_table": VERSION_TABLE,
    "target_metadata": Base.metadata,
    "transactional_ddl": True,
    "transaction_per_migration": True,
}


@functools.cache
def all_revisions() -> tuple[str, ...]:
    """Return the revisions, oldest first."""
    found = ScriptDirectory.from_config(_config()).walk_revisions()
    return tuple(script.revision for script in found)[::-1]


def check_revision(name: str, *others: str) -> None:
    """Make sure that *name* is that of a revision, or one of *others*.

    Raises:
        InvalidValue: It is not.
    """
    known = [*all_revisions(), *others]
    if name not in known:
        raise InvalidValue("revision", f"Input should be one of {', '.join(known)}")


def newest_revision() -> str:
    """Return the revision that this version of the library needs."""
    return all_revisions()[-1]


def revision_of(connection: Connection) -> str | None:
    """Return the revision that is written in the database, known or not, or None."""
    # Alembic would tell the log each time what it could do
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version = column("version_num", String)
    return connection.scalar(select(version).select_from(table(VERSION_TABLE)))


def stamp(connection: Connection, revision: str) -> None:
    """Write that the tables are those of *revision*."""
    context = MigrationContext.configure(connection, opts=_OPTIONS)
    context.stamp(ScriptDirectory.from_config(_config()), revision)


def move(connection: Connection, how: Callable[[Config, str], None], revision: str) -> None:
    """Run revisions up or down, as *how* says (``command.upgrade`` or ``downgrade``)."""
    config = _config()
    config.attributes["options"] = {**_OPTIONS, "connection": connection}
    how(config, revision)


def forget(connection: Connection) -> None:
    """Drop the table that holds the revision."""
    Table(VERSION_TABLE, MetaData()).drop(connection, checkfirst=True)


def _config() -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config
