"""What each database has to answer: the seam between the library and its two databases."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    FromClause,
    Index,
    Select,
    Subquery,
    Table,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql import Executable
from sqlalchemy.sql.elements import KeyedColumnElement
from sqlalchemy.types import TypeEngine

from zotify_async_crud._dialects.diagnosis import Check
from zotify_async_crud.errors import ZotifyCrudError

MOST_AT_ONCE: Final = 1_000
"""Rows that one statement may take from a queue."""


SCHEMA: Final = "zotify_async_crud.schema"
"""The execution option of an engine that names the schema its tables are in."""

DEADLINE: Final = "zotify_async_crud.deadline"
"""The execution option of an engine that says until when, by ``time.monotonic``, others may keep a
change of the schema waiting."""

Types: TypeAlias = Mapping[str, TypeEngine[Any]]
"""The columns of ``Database.rows``."""

Columns: TypeAlias = Mapping[str, Sequence[Any]]
"""What stands in the columns of ``Database.rows``, each with one value a row."""


class Listed(NamedTuple):
    """A list that was bound as one parameter, readable as rows in a FROM clause."""

    rows: FromClause
    position: ColumnElement[int]
    value: ColumnElement[str]


class Queue(NamedTuple):
    """How a table is worked off: what waits and is due, by priority, and in turn among equals.

    All expressions are about *rows*, an alias, so that they can stand inside a statement about the
    table itself. *harmless* is a column in no index, so that writing it to itself costs least.
    """

    table: type[DeclarativeBase]
    rows: FromClause
    key: KeyedColumnElement[str]
    priority: ColumnElement[int]
    turn: ColumnElement[Any]
    waiting: ColumnElement[bool]
    due: ColumnElement[bool]
    opened: ColumnElement[bool]
    harmless: str

    def priorities(self) -> CTE:
        """Return the priorities of what waits, highest first, each found by one look in the index.

        A plain ORDER BY priority would have to read past all that is not due yet.
        """
        highest = select(func.max(self.priority).label("priority")).where(self.waiting)
        # inside the subquery: a driver that begins late does so before UPDATE, and not before WITH
        found = highest.cte("priorities", recursive=True, nesting=True)
        next_lower = select(func.max(self.priority)).where(
            self.waiting, self.priority < found.c.priority
        )
        lower = select(next_lower.scalar_subquery()).where(found.c.priority.is_not(None))
        return found.union_all(lower)


class Database(Protocol):
    """What differs between the databases; each implementation is a stateless object."""

    writes_together: bool
    """Whether one statement can contain several writes."""

    indexes_beside_writers: bool
    """Whether an index is built without keeping writers out, and outside of a transaction."""

    announcement: ColumnElement[Any]
    """What a statement evaluates, to tell worker pools of other processes once it is committed.

    It is never null.
    """

    def __hash__(self) -> int:
        """Return what a cache of statements needs."""
        ...

    def insert(self, entity: type[DeclarativeBase] | Table) -> postgresql.Insert | sqlite.Insert:
        """Return an INSERT that understands ON CONFLICT."""
        ...

    def listed(self, values: Sequence[str]) -> Listed:
        """Return *values* as rows, in as many bound parameters however many they are."""
        ...

    def rows(self, name: str, types: Types, varying: frozenset[str]) -> Subquery:
        """Return the rows whose values ``row_parameters`` gives, however many, as one statement.

        The first column must be *varying*; what does not vary need not be sent for each row.
        """
        ...

    def created(self, name: str, types: Types, varying: frozenset[str]) -> Subquery:
        """Return the rows of ``rows`` with the moment ``created_at``, at which each is created.

        In its order the first row is the oldest, if need be by the first column.
        """
        ...

    def bytewise(self, column: ColumnElement[str]) -> ColumnElement[str]:
        """Return *column* as something to sort by, byte by byte, whatever the locale."""
        ...

    def row_parameters(
        self, name: str, columns: Columns, varying: frozenset[str]
    ) -> dict[str, Any]:
        """Return the parameters of a statement that reads *columns* as ``rows``."""
        ...

    def gathered(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Return *column* of all rows of a group as one list.

        The rows are in no order, but it is the same for every list of a statement. A driver takes
        ten times as long for as many rows.
        """
        ...

    def hold_first(self, queue: Queue) -> Executable:
        """Return the statement that reads the first row and holds it until the transaction ends."""
        ...

    def is_among_first(self, queue: Queue, limit: ColumnElement[int]) -> ColumnElement[bool]:
        """Return whether a row of an UPDATE is one of the first *limit* that nobody holds."""
        ...

    def by_index(self, key: ColumnElement[str], keys: Select[Any]) -> ColumnElement[bool]:
        """Return what makes the database look up *keys* one by one, whatever it has counted."""
        ...

    def is_free(
        self, key: ColumnElement[str], found: Select[Any], held: FromClause
    ) -> ColumnElement[bool]:
        """Return whether *key* is *found*, in rows of *held* that no other transaction holds."""
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

    def join_writers(self, connection: Connection, table: str) -> None:
        """Be among the writers of *table* from now on, for whom ``lock_out_writers`` waits.

        Raises:
            TransactionRequired: It would not see what others write while it waits for them.
        """
        ...

    def plan_afresh(self, connection: Connection) -> None:
        """Forget how *connection* ran its statements while the tables were smaller."""
        ...

    def changing_schema(
        self, engine: AsyncEngine, *, in_steps: bool = False
    ) -> AbstractAsyncContextManager[AsyncConnection]:
        """Yield a connection for changes of the schema, while nobody else changes it.

        It is in one transaction, which is committed in the end; *in_steps*, it is in none where the
        database can go on with what was broken off between two steps. It waits for a table so
        shortly that those who wait behind it notice nothing, and raises ``TransactionConflict``.
        Where a table is made anew, foreign keys are checked in the end and not before.
        """
        ...

    def build_index(self, connection: Connection, index: Index) -> None:
        """Build *index*, beside those who write if the database can (``indexes_beside_writers``).

        It must be outside of a transaction then. A transaction that is left open for longer than
        ``DEADLINE`` has it raises ``TransactionConflict``; the work itself may take longer.
        """
        ...

    def drop_index(self, connection: Connection, name: str) -> None:
        """Drop the index if there is one, as ``build_index`` would build it."""
        ...

    def indexes(self, connection: Connection) -> set[str]:
        """Return the names of the indexes that work, also of those that reflection leaves out."""
        ...

    def create_engine(
        self,
        url: URL,
        *,
        schema: str | None,
        read_only: bool,
        pgbouncer: bool,
        options: Mapping[str, Any],
    ) -> AsyncEngine:
        """Return an engine set up the one way this library supports."""
        ...

    def exists(self, url: URL) -> bool:
        """Return whether to connect would find a database, and not make an empty one."""
        ...

    def checks(self, tables: Collection[str], *, pgbouncer: bool) -> Mapping[str, Check]:
        """Return what shows by its name whether a database can be used, and the *tables* in it.

        *pgbouncer* is what the engine was made with that they will look at.
        """
        ...

    @property
    def notification(self) -> Executable | None:
        """The statement that tells worker pools of other processes of jobs, if there is one."""
        ...

    def looks_for_others(self, url: URL) -> bool:
        """Tell whether ``watch_others`` looks by itself, at less cost than a query."""
        ...

    async def watch_others(
        self, engine: AsyncEngine, watcher: Callable[[], None], interval: float
    ) -> None:
        """Call *watcher* when another process has something new, until the connection is lost.

        Where nothing calls back, look every *interval* seconds.
        """
        ...

    def translate(self, error: BaseException) -> ZotifyCrudError | None:
        """Return what *error* means to a caller, or None if it is not this database's."""
        ...
