"""What revision a database has, and whether that will do."""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

from zotify_async_crud.database import translated_errors
from zotify_async_crud.errors import DatabaseUnavailable, SchemaMismatch
from zotify_async_crud.migrations._revisions import all_revisions, newest_revision, revision_of
from zotify_async_crud.migrations._tables import differences, missing, tables_in
from zotify_async_crud.models import Base


async def current_revision(engine: AsyncEngine) -> str | None:
    """Return the revision of the tables, which may be one that only a newer version knows.

    None means that there are no tables, or that something else made them.
    """
    with translated_errors(lost=DatabaseUnavailable):
        async with engine.connect() as connection:
            return await connection.run_sync(revision_of)


async def check_schema(engine: AsyncEngine) -> None:
    """Make sure that the tables are those that this version needs; it changes nothing.

    Raises:
        SchemaMismatch: They are not; the message names what mends it.
    """
    with translated_errors(lost=DatabaseUnavailable):
        async with engine.connect() as connection:
            await connection.run_sync(_check)


async def check_parts(engine: AsyncEngine) -> None:
    """Make sure that tables of this version lack no column, index or key, which takes longer.

    Raises:
        SchemaMismatch: They do.
    """
    with translated_errors(lost=DatabaseUnavailable):
        async with engine.connect() as connection:
            _refuse(await connection.run_sync(missing))


def _check(connection: Connection) -> None:
    revision = revision_of(connection)
    check_known(revision)
    if revision is None and tables_in(connection):
        check_unversioned(connection)
    elif revision is None:
        raise SchemaMismatch("there are none: run `zotify-async-crud migrate`")
    elif revision != newest_revision():
        raise SchemaMismatch(
            f"they are of revision {revision}, and this version needs {newest_revision()}:"
            " run `zotify-async-crud migrate`"
        )
    else:
        _refuse(sorted(Base.metadata.tables.keys() - tables_in(connection)))


def _refuse(parts: list[str]) -> None:
    if parts:
        raise SchemaMismatch(f"missing or damaged: {', '.join(parts)}: restore a backup")


def check_known(revision: str | None) -> None:
    """Make sure that *revision* is not one of a newer version.

    Raises:
        SchemaMismatch: It is.
    """
    if revision is not None and revision not in all_revisions():
        raise SchemaMismatch(
            f"they are of revision {revision}, which this version does not know:"
            " install a newer zotify-async-crud"
        )


def check_unversioned(connection: Connection) -> None:
    """Make sure that tables without a revision are those of this version.

    Raises:
        SchemaMismatch: They are not; if the original Zotify API made them, they can be adopted.
    """
    if different := differences(connection):
        raise SchemaMismatch(
            f"they have no revision, and are not those of this version ({different[0]}): if the"
            " original Zotify API made them, run `zotify-async-crud adopt`"
        )
