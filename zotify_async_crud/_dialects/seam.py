"""What each database has to answer: the seam between the library and its two databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sqlalchemy import ColumnElement, Connection, FromClause
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql import Executable

from zotify_async_crud.errors import DatabaseError


class Listed(NamedTuple):
    """A list that was bound as one parameter, readable as rows in a FROM clause."""

    rows: FromClause
    position: ColumnElement[int]
    value: ColumnElement[str]


class Pick(NamedTuple):
    """Which row to pick up: the first in *order* that fits *criterion*.

    *harmless* is a column in no index, so that writing it to itself costs least.
    """

    entity: type[DeclarativeBase]
    key: ColumnElement[str]
    criterion: ColumnElement[bool]
    order: tuple[ColumnElement[Any], ...]
    harmless: ColumnElement[Any]


class Database(Protocol):
    """What differs between the databases; each implementation is a stateless object."""

    def insert(self, entity: type[DeclarativeBase]) -> postgresql.Insert | sqlite.Insert:
        """Return an INSERT that understands ON CONFLICT."""
        ...

    def listed(self, values: Sequence[str]) -> Listed:
        """Return *values* as rows, in one bound parameter however many they are."""
        ...

    def pick_up(self, pick: Pick) -> Executable:
        """Return the statement that reads the first row and holds it until the transaction ends."""
        ...

    def guard_transaction(self, connection: Connection) -> None:
        """Make sure that what follows on *connection* commits or rolls back as one.

        Raises:
            TransactionRequired: The engine commits each statement, or shares one connection.
        """
        ...

    def lock_out_writers(self, connection: Connection, table: str) -> None:
        """Wait for the writers of *table*, and keep others waiting until the transaction ends."""
        ...

    def plan_afresh(self, connection: Connection) -> None:
        """Forget how *connection* ran its statements while the tables were smaller."""
        ...

    def lock_schema(self, connection: Connection) -> None:
        """Let one caller at a time create or drop tables, until the transaction ends."""
        ...

    def create_engine(
        self, url: URL, *, read_only: bool, pgbouncer: bool, options: Mapping[str, Any]
    ) -> AsyncEngine:
        """Return an engine set up the one way this library supports."""
        ...

    def translate(self, error: BaseException) -> DatabaseError | None:
        """Return what *error* means to a caller, or None if it is not this database's."""
        ...
