"""Fixtures: each test that asks for ``sessions`` or ``engine`` runs on PostgreSQL and on SQLite."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import text
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.pool import NullPool

from tests.support import postgresql
from tests.support.databases import new_database
from tests.support.secrets import KEYRING
from zotify_async_crud import database, encryption, migrations, models

# nothing here is judged by how long it took: a busy machine must not turn a test red
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

DATABASES = ("postgresql", "sqlite")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server that lives as long as the run."""
    with postgresql.server() as url:
        yield url


@pytest.fixture(scope="session")
async def postgresql_database(postgresql_server: str) -> AsyncIterator[str]:
    """The URL of a database of this run's own, with the schema; each test finds it empty."""
    async with new_database("postgresql", Path(), postgresql_server) as url:
        await _upgrade(url)
        yield url


@pytest.fixture(scope="session")
async def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database file with the schema, to be copied."""
    path = tmp_path_factory.mktemp("template") / "zotify.db"
    await _upgrade(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture(params=DATABASES)
async def url(
    request: pytest.FixtureRequest, tmp_path: Path, postgresql_database: str, sqlite_template: Path
) -> str:
    """The URL of a database with the schema and no rows, for this test alone."""
    if request.param == "postgresql":
        return await _emptied(postgresql_database)
    copy = shutil.copy(sqlite_template, tmp_path / "zotify.db")
    return f"sqlite+aiosqlite:///{copy}"


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine made by the library."""
    engine = database.create_engine(url, token_keyring=KEYRING)
    yield engine
    await engine.dispose()


@pytest.fixture
async def plain_engine(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine as SQLAlchemy makes it by itself."""
    # the 5 s that SQLite's driver waits for a lock by itself are few on a busy machine
    patient = {"timeout": 60} if url.startswith("sqlite") else {}
    engine = create_async_engine(url, connect_args=patient)
    encryption.use_keyring(engine, KEYRING)
    yield engine
    await engine.dispose()


@pytest.fixture(params=DATABASES)
async def empty_url(
    request: pytest.FixtureRequest, tmp_path: Path, postgresql_server: str
) -> AsyncIterator[str]:
    """The URL of a database with nothing in it; on SQLite not even the file is there."""
    async with new_database(request.param, tmp_path, postgresql_server) as url:
        yield url


@pytest.fixture
async def empty_engine(empty_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on a database with nothing in it."""
    engine = database.create_engine(empty_url, token_keyring=KEYRING)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions on ``engine``."""
    return database.create_session_factory(engine)


@pytest.fixture
def plain_sessions(plain_engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions on ``plain_engine``, with the default that suits asyncio."""
    return async_sessionmaker(plain_engine, expire_on_commit=False)


async def _upgrade(url: str) -> None:
    engine = database.create_engine(url)
    await migrations.upgrade(engine)
    await engine.dispose()


async def _emptied(url: str) -> str:
    engine = create_async_engine(url, poolclass=NullPool)
    tables = ", ".join(models.Base.metadata.tables)
    async with engine.begin() as connection:
        await connection.execute(text(f"TRUNCATE {tables}"))
    return url
