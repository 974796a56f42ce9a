"""Tables in a schema of their own, which only PostgreSQL has."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import event, text

from tests.support.databases import new_database
from zotify_async_crud import database, errors, migrations


async def test_tables_can_be_in_a_schema_of_their_own(
    tmp_path: Path, postgresql_server: str
) -> None:
    """Two services share a database, and neither sees the other's."""
    async with new_database("postgresql", tmp_path, postgresql_server) as url:
        engines = [database.create_engine(url, schema=name) for name in ("one", "Two", None)]
        one, two, public = engines
        await migrations.upgrade(one)
        await migrations.upgrade(two, "0001")

        assert await migrations.current_revision(one) == migrations.newest_revision()
        assert await migrations.current_revision(two) == "0001"
        assert await migrations.current_revision(public) is None
        async with one.connect() as connection:
            places = text("SELECT schemaname FROM pg_tables WHERE tablename = 'tracks' ORDER BY 1")
            assert [*await connection.scalars(places)] == ["Two", "one"]
        await migrations.upgrade(two)
        await migrations.downgrade(one, "base")
        await migrations.check_schema(two)
        for engine in engines:
            await engine.dispose()


async def test_a_schema_that_exists_needs_no_right_to_create_one(
    tmp_path: Path, postgresql_server: str
) -> None:
    """An administrator may have made it for a role that can do nothing else."""
    async with new_database("postgresql", tmp_path, postgresql_server) as url:
        engine = database.create_engine(url, schema="ours")
        created: list[str] = []

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def note(_: object, __: object, statement: str, *___: object) -> None:
            created.extend([statement] * statement.startswith("CREATE SCHEMA"))

        await migrations.upgrade(engine)
        await migrations.upgrade(engine)

        assert created == ["CREATE SCHEMA ours"]
        await engine.dispose()


@pytest.mark.parametrize("schema", ["", "pg_ours", "a b", 'a"b', "a\0b", "1a", "x" * 64, 1, b"a"])
def test_a_schema_has_a_name(schema: str) -> None:
    """The error names the argument; what PostgreSQL would expand, as $user, is none."""
    with pytest.raises(errors.InvalidValue, match="letters, digits and underscores") as caught:
        database.create_engine("postgresql://", schema=schema)
    assert caught.value.field == "schema"


@pytest.mark.parametrize(
    ("url", "options", "match"),
    [
        ("sqlite://", {}, "SQLite has no schemas"),
        ("postgresql://", {"pgbouncer": True}, "ALTER ROLE"),
    ],
)
def test_a_schema_is_refused_where_it_could_not_hold(
    url: str, options: dict[str, bool], match: str
) -> None:
    """It must never be left out silently."""
    with pytest.raises(errors.InvalidValue, match=match) as caught:
        database.create_engine(url, schema="ours", **options)  # type: ignore[arg-type]
    assert caught.value.field == "schema"
