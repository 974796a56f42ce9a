"""The databases to measure on: PostgreSQL as it is installed, and SQLite in a file on disk."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import NullPool

from tests.support.postgresql import SERVER_URL, EmbeddedServer
from zotify_async_crud import database, migrations, models

POSTGRESQL: Final = "PostgreSQL"
SQLITE: Final = "SQLite"
BOTH: Final = (POSTGRESQL, SQLITE)

# Three jobs share each second, so that the order needs its tie-break.
_ADD_JOBS: Final = {
    POSTGRESQL: """
        INSERT INTO download_jobs (job_id, track_id, status, progress, created_at)
        SELECT '00000000-0000-7000-8000-' || lpad(CAST(n AS text), 12, '0'), 'track' || n,
            CASE WHEN n % :every = 0 THEN :rare ELSE :status END, 0,
            TIMESTAMPTZ '2026-01-01 00:00:00Z' + (n / 3) * INTERVAL '1 second'
        FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS n
    """,
    SQLITE: """
        WITH RECURSIVE numbers(n) AS (
            SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last
        )
        INSERT INTO download_jobs (job_id, track_id, status, progress, created_at)
        SELECT '00000000-0000-7000-8000-' || printf('%012d', n), 'track' || n,
            CASE WHEN n % :every = 0 THEN :rare ELSE :status END, 0,
            strftime('%Y-%m-%d %H:%M:%f000', 1767225600 + n / 3, 'unixepoch')
        FROM numbers
    """,
}


@dataclass(frozen=True, slots=True)
class Database:
    """A database with the schema, and the engine that the library makes for it."""

    name: str
    url: str
    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]

    async def add_jobs(
        self,
        first: int,
        last: int,
        *,
        status: str = "completed",
        rare: str = "failed",
        every: int = 20_000,
    ) -> None:
        """Insert jobs numbered *first* to *last* by one statement; each *every*-th has *rare*."""
        values = {"first": first, "last": last, "status": status, "rare": rare, "every": every}
        await self.execute(_ADD_JOBS[self.name], **values)

    async def keep_statistics_away(self) -> None:
        """See to it that the planner learns of the tables' contents only when it is told to.

        SQLite never learns by itself. PostgreSQL does in the background, at a moment that would
        make one round differ from the next.
        """
        if self.name == POSTGRESQL:
            for table in models.Base.metadata.tables:
                await self.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")

    async def execute(self, statement: str, **values: object) -> None:
        """Execute *statement* in a transaction of its own."""
        async with self.engine.begin() as connection:
            await connection.execute(text(statement), values)

    async def vacuum(self) -> None:
        """Give back the room of deleted rows."""
        await self._maintain("VACUUM")

    async def write_out(self) -> None:
        """Let PostgreSQL write to disk what was loaded, which it else does beside what follows."""
        await self._maintain("CHECKPOINT")

    async def analyze(self) -> None:
        """Let the planner know what the tables hold now."""
        await self._maintain("ANALYZE")

    async def _maintain(self, statement: str) -> None:
        alone = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        async with alone.connect() as connection:
            await connection.execute(text(statement))


class Databases:
    """Makes empty databases on one server and in one folder."""

    def __init__(self, server: str, folder: Path) -> None:
        self._server, self._folder = make_url(server), folder

    @contextlib.asynccontextmanager
    async def fresh(self, name: str) -> AsyncIterator[Database]:
        """Yield an empty database of the kind *name*, with the schema, and drop it afterwards."""
        identifier = f"zotify_bench_{uuid.uuid4().hex[:12]}"
        if name == SQLITE:
            url = make_url(f"sqlite+aiosqlite:///{self._folder / identifier}.db")
        else:
            await self._administer(f"CREATE DATABASE {identifier}")
            url = self._server.set(database=identifier)
        engine = database.create_engine(url)
        try:
            await migrations.upgrade(engine)
            sessions = database.create_session_factory(engine)
            yield Database(name, url.render_as_string(hide_password=False), engine, sessions)
        finally:
            await engine.dispose()
            if name != SQLITE:
                await self._administer(f"DROP DATABASE {identifier} WITH (FORCE)")

    async def _administer(self, statement: str) -> None:
        admin = create_async_engine(self._server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        async with admin.connect() as connection:
            await connection.execute(text(statement))


@contextlib.contextmanager
def databases() -> Iterator[Databases]:
    """Run a server with the durability it has by default, unless a URL names another server."""
    with tempfile.TemporaryDirectory(prefix="zbench-") as folder:
        if url := os.environ.get(SERVER_URL):
            yield Databases(url, Path(folder))
            return
        with tempfile.TemporaryDirectory(prefix="zpg-") as data:
            server = EmbeddedServer(Path(data), settings=())
            server.start()
            try:
                yield Databases(server.url, Path(folder))
            finally:
                server.stop()
