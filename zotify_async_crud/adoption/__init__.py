"""Takes over a database that the original Zotify API made.

Its tables become this library's, under the names that both have, with the jobs, the tracks, the
playlists and the newest token in them. What else the database holds stays as it is.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, inspect, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from zotify_async_crud import crud
from zotify_async_crud._dialects import database_for
from zotify_async_crud._dialects.types import UTCNow
from zotify_async_crud._transactions import transaction
from zotify_async_crud.adoption._ledger import AdoptionReport, Ledger
from zotify_async_crud.adoption._original import (
    ASSOCIATION,
    columns_of,
    has_rows,
    hold_original,
)
from zotify_async_crud.adoption._takeover import take_over
from zotify_async_crud.adoption._tokens import Token, newest_token
from zotify_async_crud.database import translated_errors
from zotify_async_crud.errors import AdoptionRefused, DatabaseUnavailable
from zotify_async_crud.migrations._checks import check_known
from zotify_async_crud.migrations._revisions import newest_revision, revision_of
from zotify_async_crud.migrations._tables import differences, tables_in
from zotify_async_crud.models import Base

__all__ = ["AdoptionReport", "adopt"]

_ADDED: Final = ("remove_",)
"""How a difference begins that somebody has added to our tables, such as an index."""

_TO_COME: Final = ("add_column", "add_index")
"""How a difference begins that the revisions still to come make."""


@transaction
async def adopt(engine: AsyncEngine, *, dry_run: bool = False) -> AdoptionReport:
    """Make the tables of the original Zotify API those of this library, with all they hold.

    It is one transaction, in which nobody else can use them; stop the original service before. A
    *dry_run* does it all, and rolls it back. A database that has been adopted is left alone.

    Jobs keep their ids, states and times. What was in progress is in the queue again, and what is
    finished counts as finished at this moment, since nobody knows when it was. Of several tokens
    the newest is kept, encrypted by the engine's key ring. A value that has one sensible meaning is
    mended, which the report tells.

    Raises:
        AdoptionRefused: The tables are not the original's, are half-migrated, or hold what has no
            place here. Nothing was written.
        SchemaMismatch: The tables are of a newer version of this library.
        TransactionConflict: Others use the tables. Nothing was written.
    """
    # it can be called again, whatever its outcome was
    with translated_errors(lost=DatabaseUnavailable):
        try:
            async with database_for(engine.dialect).changing_schema(engine) as connection:
                return await _adopted(connection, dry_run=dry_run)
        except _Tried as tried:
            return tried.report


class _Tried(Exception):
    """It rolls back the transaction that was a dry run; a file is not even touched then."""

    def __init__(self, report: AdoptionReport) -> None:
        super().__init__()
        self.report = report


async def _adopted(connection: AsyncConnection, *, dry_run: bool) -> AdoptionReport:
    if await connection.run_sync(_is_ours):
        return AdoptionReport(nothing_to_do=True)
    ledger = Ledger((await connection.execute(select(UTCNow()))).scalar_one())
    token = await connection.run_sync(_taken_over, ledger)
    if token is not None:
        async with AsyncSession(connection) as db, db.begin():
            await crud.create_or_update_spotify_token(db, token)
    report = ledger.report(token=token is not None)
    if dry_run:
        raise _Tried(report)
    return report


def _is_ours(connection: Connection) -> bool:
    """Tell whether the tables are this library's, and nothing of the original's is among them."""
    revision = revision_of(connection)
    check_known(revision)
    if revision is None and not _is_unversioned(connection):
        return False
    for difference in _contradictions(connection, revision):
        reason = f"revision {revision} is written, and the tables are not of it ({difference})"
        raise AdoptionRefused(f"it is half-migrated: {reason}")
    tables = inspect(connection).get_table_names()
    if ASSOCIATION in tables and has_rows(connection, ASSOCIATION):
        raise AdoptionRefused(f"it is half-migrated: {ASSOCIATION} has rows beside our tables")
    return True


def _contradictions(connection: Connection, revision: str | None) -> list[str]:
    """Return how the tables differ from any of ours that have *revision*."""
    expected = _ADDED if revision in {None, newest_revision()} else _ADDED + _TO_COME
    return [found for found in differences(connection) if not found.startswith(expected)]


def _is_unversioned(connection: Connection) -> bool:
    """Tell whether ``create_all`` made the tables of this library's metadata."""
    is_complete = tables_in(connection) == Base.metadata.tables.keys()
    return is_complete and not differences(connection)


def _taken_over(connection: Connection, ledger: Ledger) -> Token | None:
    columns = hold_original(connection)
    for name, found in columns.items():
        for key in sorted(found.difference(columns_of(name))):
            ledger.note(f"{name}.{key} has no place here, and is dropped")
    token = newest_token(connection, ledger)
    take_over(connection, columns, ledger)
    return token
