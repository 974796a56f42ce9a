"""The command that looks for what is wrong: what it finds where, and that it changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tests.cli.pooler import pooler
from tests.cli.programs import run
from tests.cli.shell import Shell
from tests.support.factories import add_token
from tests.support.faults import only_postgresql, only_sqlite
from tests.support.secrets import KEYS
from zotify_async_crud import database, migrations
from zotify_async_crud._dialects import database_for, postgresql_diagnosis
from zotify_async_crud._dialects.diagnosis import Finding, Verdict
from zotify_async_crud.models import Base

ON_BOTH: Final = ["database", "version", "tables", "token"]
ON_POSTGRESQL: Final = ["clock", "pooler", "writes", "privileges", "wake-ups"]
ON_SQLITE: Final = ["write-ahead log", "foreign keys", "file mode", "writes", "integrity"]


def verdicts(found: list[dict[str, Any]]) -> dict[str, str]:
    """Return the verdicts by the names of the checks."""
    return {each["check"]: each["verdict"] for each in found}


async def look(engine: AsyncEngine, name: str, *, pgbouncer: bool = False) -> Finding:
    """Return what one check of the database finds."""
    checks = database_for(engine.dialect).checks(Base.metadata.tables, pgbouncer=pgbouncer)
    return await checks[name](engine)


@contextlib.asynccontextmanager
async def plain(url: str) -> AsyncIterator[AsyncEngine]:
    """Have an engine as SQLAlchemy makes it."""
    engine = create_async_engine(url, poolclass=NullPool)
    yield engine
    await engine.dispose()


def test_a_healthy_database_passes_every_check(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For people in lines, and for scripts in an array."""
    monkeypatch.setattr(postgresql_diagnosis, "_PATIENCE", 60.0)
    found = shell.json("doctor")
    own = ON_SQLITE if shell.url.startswith("sqlite") else ON_POSTGRESQL
    assert verdicts(found) == dict.fromkeys([*ON_BOTH, *own], "ok")
    assert all(each.keys() == {"check", "verdict", "detail", "remedy"} for each in found)
    lines = shell.run("doctor").splitlines()
    assert [line.split()[0] for line in lines] == ["ok"] * len(found)
    revision = migrations.newest_revision()
    assert f"ok       tables: those of this version, revision {revision}" in lines


def test_what_fails_is_told_with_all_else(empty_shell: Shell) -> None:
    """The report goes to stdout; the line on stderr is the one of any other command."""
    empty_shell.run("migrate", "--to", "0001")
    out, err = empty_shell.both("doctor", code=4)
    assert "ok       database: answers in " in out
    assert "failed   tables: the tables are missing or of another version" in out
    assert "token" not in out
    assert err.endswith("run `zotify-async-crud migrate`\n")


def test_tables_without_a_revision_are_told(empty_shell: Shell) -> None:
    """They are those of this version all the same."""

    async def create_all(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    empty_shell.do(create_all)
    lines = empty_shell.run("doctor").splitlines()
    place = lines.index("warning  tables: those of this version, without a revision")
    assert lines[place + 1] == "         run `zotify-async-crud migrate`"


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("DROP TABLE download_queue", "download_queue"),
        ("DROP INDEX ix_download_jobs_pending", "download_jobs.ix_download_jobs_pending"),
        ("DROP INDEX uq_download_jobs_track", "download_jobs.uq_download_jobs_track"),
        ("ALTER TABLE tracks DROP COLUMN album", "tracks.album"),
    ],
)
def test_a_part_that_was_dropped_is_told(empty_shell: Shell, statement: str, part: str) -> None:
    """Though the revision is that of this version."""
    empty_shell.run("migrate")
    empty_shell.execute(statement)
    out, err = empty_shell.both("doctor", code=4)
    assert "failed   tables: the tables are missing or of another version" in out
    assert err.endswith(f": missing or damaged: {part}: restore a backup\n")


def test_tables_may_have_more_than_this_version_needs(empty_shell: Shell) -> None:
    """An index for a service's own queries does no harm, and nor does a column."""
    empty_shell.run("migrate")
    empty_shell.execute("ALTER TABLE tracks ADD COLUMN mine TEXT")
    empty_shell.execute("CREATE INDEX mine ON tracks (mine)")
    assert "ok       tables: those of this version" in empty_shell.run("doctor")


@pytest.mark.parametrize(
    ("keys", "code", "detail"),
    [
        (KEYS[0], 0, "encrypted by key "),
        (KEYS[1], 1, "the stored token is encrypted by a key that is not in the key ring"),
        ("", 1, "the stored token is encrypted, and the engine has no token_keyring"),
        ("none", 2, "ZOTIFY_TOKEN_KEYS: Input should be keys as `token generate-key`"),
    ],
)
def test_keys_are_tried_on_the_token(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, keys: str, code: int, detail: str
) -> None:
    """They are shown by no check."""
    shell.do(lambda engine: add_token(database.create_session_factory(engine)))
    monkeypatch.setenv("ZOTIFY_TOKEN_KEYS", keys)
    out, err = shell.both("doctor", "--json", code=code)
    token = json.loads(out)[-1]
    assert (token["check"], token["verdict"]) == ("token", "failed" if code else "ok")
    assert token["detail"].startswith(detail)
    assert err == "" or err.count("\n") == 1
    assert not [key for key in KEYS if key in out + err]


@pytest.mark.parametrize(
    ("statement", "detail"),
    [
        ("UPDATE spotify_tokens SET access_token = 'a'", "kept in clear"),
        ("UPDATE spotify_tokens SET needs_login = true", "it cannot be refreshed any more"),
    ],
)
def test_a_token_that_will_not_do_for_long_is_a_warning(
    shell: Shell, statement: str, detail: str
) -> None:
    """Nothing has failed yet."""
    shell.do(lambda engine: add_token(database.create_session_factory(engine)))
    shell.execute(statement)
    token = shell.json("doctor")[-1]
    assert (token["verdict"], token["detail"]) == ("warning", detail)


async def test_an_old_version_is_told(engine: AsyncEngine) -> None:
    """With the oldest that will do."""
    assert (await look(engine, "version")).verdict is Verdict.OK
    engine.dialect.server_version_info = (3, 34, 9)
    found = await look(engine, "version")
    assert (found.verdict, found.detail) == (Verdict.FAILED, "3.34.9")
    assert found.remedy is not None
    assert found.remedy.endswith(" or newer")


# SQLite


@only_sqlite
async def test_a_file_without_a_write_ahead_log_is_told(url: str) -> None:
    """As on a network file system, or where another program has switched it off."""
    async with plain(url) as engine:
        async with engine.connect() as connection:
            await connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
        assert (await look(engine, "write-ahead log")).verdict is Verdict.WARNING
        assert (await look(engine, "foreign keys")).detail == "not enforced"


@only_sqlite
def test_nothing_is_mended_in_secret(shell: Shell, tmp_path: Path) -> None:
    """Not even a file without a write-ahead log, which any other command would switch to it."""
    path = tmp_path / "zotify.db"
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    assert "warning  write-ahead log: off" in shell.run("doctor")
    shell.run("stats")
    assert path.read_bytes() == before


async def test_a_database_in_memory_needs_no_file() -> None:
    """It has neither a log nor a mode."""
    engine = database.create_engine("sqlite://")
    for name in ON_SQLITE:
        assert (await look(engine, name)).verdict is Verdict.OK
    await engine.dispose()


@only_sqlite
def test_a_broken_foreign_key_is_told(shell: Shell, tmp_path: Path) -> None:
    """Other programs need not enforce them. The line names the check."""
    with contextlib.closing(sqlite3.connect(tmp_path / "zotify.db", isolation_level=None)) as file:
        file.execute("INSERT INTO playlist_tracks VALUES ('p', 0, 't')")
    out, err = shell.both("doctor", code=1)
    assert "failed   foreign keys: a row of playlist_tracks refers to one that is not" in out
    assert err == "zotify-async-crud: checks that failed: foreign keys\n"


@only_sqlite
def test_a_file_that_others_may_open_is_told(shell: Shell, tmp_path: Path) -> None:
    """With the command that mends it."""
    (tmp_path / "zotify.db").chmod(0o640)
    lines = shell.run("doctor").splitlines()
    place = lines.index("warning  file mode: 0640: others may open it")
    assert lines[place + 1] == f"         chmod 600 {tmp_path}/zotify.db"


@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "verdict", "detail"),
    [
        (0o444, 0o777, Verdict.FAILED, "not write to {file}"),
        (0o666, 0o555, Verdict.FAILED, "not write to {folder}"),
        (0o666, 0o777, Verdict.OK, "write to the file and to its folder"),
    ],
)
async def test_a_file_that_this_user_may_not_write_is_told(
    sqlite_template: Path, file_mode: int, folder_mode: int, verdict: Verdict, detail: str
) -> None:
    """Or a folder that can take no log, without which nobody can write either."""
    with copied(sqlite_template, file_mode, folder_mode) as path:
        engine = database.create_engine(f"sqlite:///{path}", read_only=True)
        with unprivileged():
            found = await look(engine, "writes")
        await engine.dispose()
    expected = detail.format(file=path, folder=path.parent)
    assert (found.verdict, found.detail) == (verdict, f"this user may {expected}")


@contextlib.contextmanager
def copied(file: Path, file_mode: int, folder_mode: int) -> Iterator[Path]:
    """Have a copy of *file* in a folder of its own that others can reach."""
    with tempfile.TemporaryDirectory(prefix="zotify-") as name:
        folder = Path(name)
        copy = Path(shutil.copy(file, folder / "zotify.db"))
        copy.chmod(file_mode)
        folder.chmod(folder_mode)
        yield copy
        folder.chmod(0o700)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Be nobody in the block, if this is root, who may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(user)


@only_sqlite
def test_a_damaged_file_is_told(shell: Shell, tmp_path: Path) -> None:
    """As found by a look at every page."""
    with contextlib.closing(sqlite3.connect(tmp_path / "zotify.db", isolation_level=None)) as file:
        file.execute("CREATE INDEX mine ON tracks (album)")
        file.execute("PRAGMA writable_schema = ON")
        file.execute("DELETE FROM sqlite_schema WHERE name = 'mine'")
    out, err = shell.both("doctor", code=1)
    assert "failed   integrity: the file is damaged: " in out
    assert err == "zotify-async-crud: checks that failed: integrity\n"


# PostgreSQL


@only_postgresql
@pytest.mark.parametrize(
    ("ahead", "verdict"),
    [(0.0, Verdict.OK), (3_600.0, Verdict.WARNING), (-3_600.0, Verdict.WARNING)],
)
async def test_a_clock_that_goes_wrong_is_told(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, ahead: float, verdict: Verdict
) -> None:
    """By how much."""
    monkeypatch.setattr(postgresql_diagnosis, "_CLOCKS", 600.0)  # here one stands still
    async with engine.connect() as connection:
        epoch = text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS float)")
        server: float = (await connection.execute(epoch)).scalar_one()
    found = await postgresql_diagnosis.clock(engine, lambda: server - ahead)
    assert found.verdict is verdict


@only_postgresql
async def test_a_slow_answer_is_not_taken_for_a_wrong_clock(engine: AsyncEngine) -> None:
    """Somewhere between the question and the answer both clocks may have told the same."""
    moments = iter([0.0, 1e12])
    found = await postgresql_diagnosis.clock(engine, lambda: next(moments))
    assert found.verdict is Verdict.OK


@only_postgresql
async def test_a_pooler_in_transaction_mode_is_told(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless the engine is set up for it; either way no NOTIFY arrives."""
    monkeypatch.setattr(postgresql_diagnosis, "_PATIENCE", 0.1)
    url = engine.url.render_as_string(hide_password=False)
    async with pooler(url) as between:
        for pgbouncer, verdict in ((False, Verdict.FAILED), (True, Verdict.OK)):
            behind = database.create_engine(between.url, pgbouncer=pgbouncer)
            found = await look(behind, "pooler", pgbouncer=pgbouncer)
            assert (found.verdict, found.detail[:23]) == (verdict, "one in transaction mode")
            assert (await look(behind, "wake-ups")).verdict is Verdict.WARNING
            await behind.dispose()
    assert (await look(engine, "pooler")).detail == "none"


@only_postgresql
async def test_commands_work_behind_a_pooler(url: str, tmp_path: Path) -> None:
    """Where they are told that there is one."""
    async with pooler(url) as between:
        options = ("--database-url", between.url, "--pgbouncer")
        enqueued = await asyncio.to_thread(run, tmp_path, "enqueue", "t1", *options)
        diagnosed = await asyncio.to_thread(run, tmp_path, "doctor", *options)
    assert (enqueued.returncode, enqueued.stderr) == (0, "")
    assert (diagnosed.returncode, diagnosed.stderr) == (0, "")
    assert "ok       pooler: one in transaction mode, for which the engine is set up" in (
        diagnosed.stdout.splitlines()
    )


@only_postgresql
async def test_a_pooler_that_keeps_sessions_is_told(engine: AsyncEngine) -> None:
    """It is in nobody's way."""
    url = engine.url.render_as_string(hide_password=False)
    async with pooler(url, keeps_sessions=True) as between:
        behind = database.create_engine(between.url)
        found = await look(behind, "pooler")
        await behind.dispose()
    assert (found.verdict, found.detail) == (Verdict.OK, "one that keeps sessions together")


@only_postgresql
async def test_a_server_that_takes_no_writes_is_told(engine: AsyncEngine) -> None:
    """A standby, or a role that may only read."""
    settings = {"server_settings": {"default_transaction_read_only": "on"}}
    reading = database.create_engine(engine.url, connect_args=settings)
    assert (await look(reading, "writes")).verdict is Verdict.FAILED
    await reading.dispose()
    assert (await look(engine, "writes")).verdict is Verdict.OK


@only_postgresql
async def test_missing_privileges_are_told(engine: AsyncEngine) -> None:
    """By their names; of tables that are not there nothing is said."""
    async with engine.connect() as connection:
        await connection.execute(text("CREATE ROLE reader"))
        await connection.execute(text("GRANT SELECT, UPDATE, DELETE ON download_jobs TO reader"))
        await connection.commit()
    reader = database.create_engine(
        engine.url, connect_args={"server_settings": {"role": "reader"}}
    )
    checks = database_for(engine.dialect).checks(["download_jobs", "nowhere"], pgbouncer=False)
    try:
        found = await checks["privileges"](reader)
    finally:
        await reader.dispose()
        async with engine.connect() as connection:
            await connection.execute(text("DROP OWNED BY reader"))
            await connection.execute(text("DROP ROLE reader"))
            await connection.commit()
    assert (found.verdict, found.detail) == (Verdict.FAILED, "missing: INSERT on download_jobs")
