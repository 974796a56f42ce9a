"""A service that has an Alembic of its own, in the same database."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Column, Connection, ForeignKey, Integer, MetaData, String, Table, inspect
from sqlalchemy.ext.asyncio import AsyncEngine

from zotify_async_crud import migrations
from zotify_async_crud.models import Base

pytestmark = pytest.mark.filterwarnings("ignore:.*expression-based index")  # on SQLite

ENV = """
from alembic import context

context.configure(**context.config.attributes)
with context.begin_transaction():
    context.run_migrations()
"""
SCRIPT = '''
"""${message}"""
from alembic import op
import sqlalchemy as sa

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
'''


def metadata_of_service(*, refers_to_ours: bool) -> MetaData:
    """Return the service's own tables."""
    metadata = MetaData()
    Table("users", metadata, Column("id", Integer, primary_key=True), Column("name", String(50)))
    track: list[Any] = [ForeignKey(Base.metadata.tables["tracks"].c.id)] if refers_to_ours else []
    Table(
        "likes",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("track_id", Base.metadata.tables["tracks"].c.id.type, *track),
    )
    return metadata


class Service:
    """A service's Alembic: a folder with its environment and revisions."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._folder, self._options = folder, options
        (folder / "versions").mkdir()
        (folder / "env.py").write_text(ENV)
        (folder / "script.py.mako").write_text(textwrap.dedent(SCRIPT))

    def upgrade(self, connection: Connection) -> None:
        """Run its revisions."""
        command.upgrade(self._config(connection), "head")

    def new_revision(self, connection: Connection) -> str:
        """Let its autogenerate write a revision, and return what that does."""
        script = command.revision(self._config(connection), "made up", autogenerate=True)
        assert not isinstance(script, list)
        assert script is not None
        return Path(script.path).read_text()

    def _config(self, connection: Connection) -> Config:
        config = Config(stdout=io.StringIO())
        config.set_main_option("script_location", str(self._folder))
        config.attributes.update(self._options, connection=connection)
        return config


@pytest.fixture
def beside(tmp_path: Path) -> Service:
    """A service that knows nothing of our tables, and leaves them out."""
    metadata = metadata_of_service(refers_to_ours=False)
    return Service(tmp_path, target_metadata=metadata, include_name=migrations.is_not_ours)


@pytest.fixture
def together(tmp_path: Path) -> Service:
    """A service whose tables refer to ours, and which has ours among its own metadata."""
    metadata = [metadata_of_service(refers_to_ours=True), Base.metadata]
    return Service(
        tmp_path,
        target_metadata=metadata,
        include_name=_not_the_revision,
        include_object=migrations.is_no_table_of_ours,
    )


def _not_the_revision(name: str | None, *_: object) -> bool:
    return name != migrations.VERSION_TABLE


async def run(engine: AsyncEngine, step: Callable[[Connection], Any]) -> Any:
    """Run *step* of a service in a transaction."""
    async with engine.begin() as connection:
        return await connection.run_sync(step)


@pytest.mark.parametrize("kind", ["beside", "together"])
async def test_a_service_and_the_library_each_run_their_own_revisions(
    empty_engine: AsyncEngine, request: pytest.FixtureRequest, kind: str
) -> None:
    """Neither creates, changes or drops what is the other's."""
    service: Service = request.getfixturevalue(kind)
    await migrations.upgrade(empty_engine)

    first = await run(empty_engine, service.new_revision)
    await run(empty_engine, service.upgrade)
    second = await run(empty_engine, service.new_revision)
    await run(empty_engine, service.upgrade)

    assert first.count("op.create_table(") == 2
    assert "op.create_index" not in first
    assert "op.drop" not in first.partition("def downgrade")[0]
    assert "op." not in second
    await migrations.check_schema(empty_engine)
    assert {"users", "likes", "alembic_version"} <= await run(empty_engine, _tables)

    await migrations.downgrade(empty_engine, "0001")
    await migrations.upgrade(empty_engine)
    await run(empty_engine, service.upgrade)
    await migrations.check_schema(empty_engine)


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


async def test_without_care_a_service_would_drop_what_is_ours(
    empty_engine: AsyncEngine, tmp_path: Path
) -> None:
    """The control: it is why the function to leave ours out is there."""
    careless = Service(tmp_path, target_metadata=metadata_of_service(refers_to_ours=False))
    await migrations.upgrade(empty_engine)

    assert "op.drop_table('download_jobs')" in await run(empty_engine, careless.new_revision)
