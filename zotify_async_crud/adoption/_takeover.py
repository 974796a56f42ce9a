"""How the original's tables become this library's, in the transaction of a connection.

They are copied to temporary tables and dropped before ours are made, so that nothing of theirs can
stand in the way, such as the name of an index or a sequence. SQLite would also change whatever
refers to a table that is renamed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Connection,
    MetaData,
    Row,
    Select,
    Table,
    TableClause,
    column,
    insert,
    null,
    select,
    table,
)

from zotify_async_crud._dialects import Types, database_for
from zotify_async_crud._dialects.takeover import takeover_for
from zotify_async_crud._statements import _given as given
from zotify_async_crud.adoption import _rows as read
from zotify_async_crud.adoption._ledger import Ledger
from zotify_async_crud.adoption._original import ASSOCIATION, ORIGINALS, TOKENS, columns_of
from zotify_async_crud.adoption._references import add_references, drop_references
from zotify_async_crud.migrations import _revisions as revisions
from zotify_async_crud.models import Base

Copies: TypeAlias = Mapping[str, TableClause]

_AT_ONCE: Final = 1_000
"""Rows that are in memory at a time."""

_PLACE: Final = "place"


def take_over(
    connection: Connection, columns: Mapping[str, frozenset[str]], ledger: Ledger
) -> None:
    """Put tables of ours in the place of the original's, with all that these hold but the token."""
    with _replaced(connection, columns) as copies:
        for name, types, values in _contents(connection, copies, ledger):
            ledger.rows[name] += _insert(connection, Base.metadata.tables[name], types, values)


@contextlib.contextmanager
def _replaced(connection: Connection, columns: Mapping[str, frozenset[str]]) -> Iterator[Copies]:
    """Replace the tables by empty ones of ours, and yield copies of what they held."""
    references = drop_references(connection)
    with contextlib.ExitStack() as stack:
        copies = {
            name: stack.enter_context(_copied(connection, name, found))
            for name, found in columns.items()
            if name != TOKENS  # a copy may be in a file
        }
        takeover_for(connection).wipe(connection, TOKENS)
        for name in ORIGINALS:
            Table(name, MetaData()).drop(connection, checkfirst=False)
        Base.metadata.create_all(connection, checkfirst=False)
        revisions.stamp(connection, revisions.newest_revision())
        yield copies
        add_references(connection, references)


def _contents(
    connection: Connection, copies: Copies, ledger: Ledger
) -> Iterator[tuple[str, Types, Iterator[read.Values]]]:
    """Yield what goes into each table of ours; rows before those that refer to them."""

    def rows(name: str) -> Iterator[Row[Any]]:
        return _stream(connection, name, select(copies[name]))

    def entries(query: Select[Any]) -> Iterator[Row[Any]]:
        return _stream(connection, ASSOCIATION, query)

    yield "download_jobs", read.JOB, read.jobs(rows("download_jobs"), ledger)
    yield "tracks", read.TRACK, read.tracks(rows("tracks"), ledger)
    yield "tracks", read.TRACK, read.missing_tracks(entries(_missing_tracks(copies)), ledger)
    yield "playlists", read.PLAYLIST, read.playlists(rows("playlists"), ledger)
    yield "playlist_tracks", read.ENTRY, read.entries(entries(_entries(copies)), ledger)


def _missing_tracks(copies: Copies) -> Select[Any]:
    entries, tracks, playlists = (copies[each] for each in (ASSOCIATION, "tracks", "playlists"))
    found = entries.join(playlists, entries.c.playlist_id == playlists.c.id)
    known = found.outerjoin(tracks, entries.c.track_id == tracks.c.id)
    missing = select(entries.c.track_id).select_from(known).distinct()
    return missing.where(entries.c.track_id.is_not(None), tracks.c.id.is_(None))


def _entries(copies: Copies) -> Select[Any]:
    entries, playlists = copies[ASSOCIATION], copies["playlists"]
    known = entries.outerjoin(playlists, entries.c.playlist_id == playlists.c.id)
    columns = (entries.c.playlist_id, entries.c.track_id, playlists.c.id.label("playlist"))
    found: Any = select(*columns).select_from(known)
    ordered: Select[Any] = found.order_by(entries.c.playlist_id, entries.c[_PLACE])
    return ordered


@contextlib.contextmanager
def _copied(connection: Connection, name: str, found: frozenset[str]) -> Iterator[TableClause]:
    """Yield a copy of what is known of the table's columns; those that are missing are empty."""
    takeover = takeover_for(connection)
    copy = table(f"zotify_adopted_{name}", *map(column, [*columns_of(name), _PLACE]))
    values: list[ColumnElement[Any]] = [
        column(key) if key in found else null().label(key) for key in columns_of(name)
    ]
    query = select(*values, takeover.insertion_order.label(_PLACE)).select_from(table(name))
    with takeover.temporary_copy(connection, copy.name, query):
        yield copy


def _stream(connection: Connection, name: str, query: Select[Any]) -> Iterator[Row[Any]]:
    options = {"yield_per": _AT_ONCE}
    found = read.fetched(name, lambda: connection.execute(query, execution_options=options))
    while rows := read.fetched(name, found.fetchmany):
        yield from rows


def _insert(
    connection: Connection, target: Table, types: Types, values: Iterator[read.Values]
) -> int:
    """Insert rows, and return how many they were."""
    database = database_for(connection.dialect)
    total = 0
    while rows := list(islice(values, _AT_ONCE)):
        columns = given.columns(types, rows)
        found = database.rows(given.NAME, types, given.varying(columns))
        statement = insert(target).from_select(list(types), select(found))
        connection.execute(statement, given.parameters(database, columns))
        total += len(rows)
    return total
