"""Every command in a process of its own: where all is well, and where the database is not."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.cli.programs import PROGRAM, environment, run, small_export
from tests.cli.shell import Shell
from tests.cli.test_errors import NOBODY_LISTENS
from tests.support.factories import add_job, add_token
from zotify_async_crud import cli, database, migrations

Command: TypeAlias = tuple[str, ...]

UNREACHABLE, SCHEMA = 3, 4
GROUPS: Final = {"jobs", "queue", "token"}
WITHOUT_DATABASE: Final = {("token", "generate-key")}

JOB: Final = "JOB"
"""Stands for the id of a job where there is one."""

READING: Final[tuple[Command, ...]] = (
    ("stats",),
    ("doctor",),
    ("watch", "--once"),
    ("jobs", "list"),
    ("jobs", "show", JOB),
    ("token", "status"),
)
WRITING: Final[tuple[Command, ...]] = (
    ("enqueue", "t"),
    ("work", "handlers:download", "--until-idle"),
    ("work", "handlers:download", "--until-idle", "--processes", "2"),
    ("jobs", "retry"),
    ("jobs", "cancel", JOB),
    ("jobs", "prune", "--older-than", "1d", "--yes"),
    ("queue", "pause"),
    ("queue", "resume"),
    ("token", "delete", "--yes"),
    ("token", "rotate-keys"),
)
MAKING: Final[tuple[Command, ...]] = (("import", "export"), ("demo", "--export", "export"))
CHANGING: Final[tuple[Command, ...]] = (("migrate",), ("migrate", "--to", "base", "--yes"))
ADOPTING: Final[tuple[Command, ...]] = (("adopt", "--yes"), ("adopt", "--dry-run"))


def each(*groups: tuple[Command, ...]) -> pytest.MarkDecorator:
    """Run a test with each command of *groups*."""
    commands = [command for group in groups for command in group]
    return pytest.mark.parametrize("command", commands, ids=" ".join)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an export and a handler, and room for a database."""
    path = tmp_path / "folder"
    path.mkdir()
    small_export(path)
    (path / "handlers.py").write_text("async def download(job):\n    pass\n")
    return path


def complaint(folder: Path, command: Command, url: str, code: int) -> str:
    """Return the one line that *command* says, which ends with *code*."""
    finished = run(folder, *command, "--database-url", url)
    # the doctor tells all the same what it has found
    assert finished.stdout == "" or command == ("doctor",)
    *log, line = finished.stderr.splitlines()
    assert (log, finished.returncode) == ([], code)
    program, _, message = line.partition(": ")
    assert program == "zotify-async-crud"
    return message


def execute(path: Path, statement: str) -> Any:
    """Run plain SQL on a file, and return the first row that it gives."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        return file.execute(statement).fetchone()


def test_no_command_is_left_out() -> None:
    """Whoever adds one adds it here."""
    tried = {*READING, *WRITING, *MAKING, *CHANGING, *ADOPTING, *WITHOUT_DATABASE}
    names = {name for name in cli.app.resolved_commands() if not name.startswith("-")}
    assert {command[0] for command in tried} == names
    for group in GROUPS:
        offered = {name for name in cli.app[group].resolved_commands() if not name.startswith("-")}
        assert {command[1] for command in tried if command[0] == group} == offered


@each(READING, WRITING, MAKING, CHANGING, ADOPTING)
async def test_it_does_its_work(empty_engine: AsyncEngine, folder: Path, command: Command) -> None:
    """Without a complaint, and without colours in a pipe."""
    await migrations.upgrade(empty_engine)
    sessions = database.create_session_factory(empty_engine)
    if command[0] != "demo":  # which replaces nobody's login
        await add_token(sessions)
    job_id = (await add_job(sessions)).job_id
    arguments = [job_id if argument == JOB else argument for argument in command]
    url = empty_engine.url.render_as_string(hide_password=False)
    finished = run(folder, *arguments, "--database-url", url)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == "" or command[0] == "work"  # which logs there
    assert "Traceback" not in finished.stderr
    assert "\x1b" not in finished.stdout


@each(READING, WRITING, MAKING, CHANGING, ADOPTING)
def test_a_database_that_cannot_be_reached_is_told(folder: Path, command: Command) -> None:
    """Without the password."""
    url = NOBODY_LISTENS.replace("//", "//user:s3cret@")
    message = complaint(folder, command, url, UNREACHABLE)
    assert message.startswith("the database is unavailable: ")
    assert "s3cret" not in message


@each(READING, WRITING, ADOPTING)
def test_a_file_that_is_not_there_is_told_and_not_made(folder: Path, command: Command) -> None:
    """Whoever has mistyped its name learns so."""
    message = complaint(folder, command, "sqlite:///mistyped.db", SCHEMA)
    assert message.endswith("run `zotify-async-crud migrate`")
    assert not list(folder.glob("*.db*"))


@pytest.fixture
def others_url(empty_url: str, folder: Path) -> str:
    """The URL of a database without tables of ours; on SQLite the file must be there."""
    if not empty_url.startswith("sqlite"):
        return empty_url
    execute(folder / "others.db", "CREATE TABLE others (id INTEGER)")
    return "sqlite:///others.db"


@each(READING, WRITING)
def test_missing_tables_are_told(others_url: str, folder: Path, command: Command) -> None:
    """With the command that makes them."""
    message = complaint(folder, command, others_url, SCHEMA)
    assert message.endswith("there are none: run `zotify-async-crud migrate`")


@each(ADOPTING)
def test_tables_that_are_to_be_adopted_and_are_missing_are_told(
    others_url: str, folder: Path, command: Command
) -> None:
    """The URL may be wrong."""
    message = complaint(folder, command, others_url, SCHEMA)
    assert message.endswith("it has no table of the original Zotify API")


@each(READING, WRITING, MAKING, CHANGING, ADOPTING)
def test_newer_tables_are_told(
    empty_shell: Shell, folder: Path, command: Command, empty_url: str
) -> None:
    """They are left alone, and the cure is a newer version of the program."""
    empty_shell.run("migrate")
    empty_shell.execute(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'")
    message = complaint(folder, command, empty_url, SCHEMA)
    assert message.endswith("install a newer zotify-async-crud")
    assert "install a newer" in empty_shell.complaint("migrate", code=SCHEMA)


@pytest.mark.parametrize(
    ("path", "said"),
    [("export", "Is a directory"), ("export/Playlist1.json/zotify.db", "Not a directory")],
)
def test_what_is_in_the_way_of_a_file_is_told(folder: Path, path: str, said: str) -> None:
    """By the system's own words."""
    message = complaint(folder, ("stats",), f"sqlite:///{path}", UNREACHABLE)
    assert message == f"the database refuses access: {said}: {path}"


_DIES_AT_COMMIT: Final = (
    """
    CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql
    AS 'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'
    """,
    """
    CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON download_jobs
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION die()
    """,
)


@pytest.mark.parametrize("empty_url", ["postgresql"], indirect=True)
def test_a_connection_that_is_lost_at_the_commit_is_told(
    empty_shell: Shell, folder: Path, empty_url: str
) -> None:
    """Whoever enqueued must look before the command is run again."""
    empty_shell.run("migrate")
    for statement in _DIES_AT_COMMIT:
        empty_shell.execute(statement)
    message = complaint(folder, ("enqueue", "t"), empty_url, 1)
    assert "the transaction may have been committed" in message


@pytest.mark.parametrize("options", [(), ("--json",)], ids=" ".join)
def test_a_reader_may_have_enough(shell: Shell, options: Command) -> None:
    """As head does: no traceback."""
    shell.run("enqueue", *(f"t{number}" for number in range(1_000)))
    listing = subprocess.Popen(
        [*PROGRAM, "jobs", "list", "--limit", "1000", *options, "--database-url", shell.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.close()
    with listing.stderr:
        assert listing.stderr.read() == b""
    assert listing.wait() == 141
