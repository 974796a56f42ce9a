"""The commands about jobs, the queue, the token and the tables, as a user and a script see them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.adoption.original import create_original, insert, job
from tests.cli.programs import PROGRAM, environment, run, small_export
from tests.cli.test_errors import NOBODY_LISTENS, complaint
from tests.support.secrets import KEYRING, KEYS
from zotify_async_crud import cli, crud, database, migrations

NEWEST: Final = migrations.newest_revision()

# each with what it needs; the key is how it stands in a test's name
COMMANDS: Final[dict[str, list[str]]] = {
    "enqueue": ["enqueue", "t1"],
    "jobs list": ["jobs", "list"],
    "jobs show": ["jobs", "show", "j"],
    "jobs retry": ["jobs", "retry"],
    "jobs cancel": ["jobs", "cancel", "j"],
    "jobs prune": ["jobs", "prune", "--older-than", "1d", "--yes"],
    "stats": ["stats"],
    "queue pause": ["queue", "pause"],
    "queue resume": ["queue", "resume"],
    "token status": ["token", "status"],
    "token rotate-keys": ["token", "rotate-keys"],
    "token delete": ["token", "delete", "--yes"],
    "work": ["work", "tests.cli.recorder:download"],
    "watch": ["watch", "--once"],
}
CHANGING: Final[dict[str, list[str]]] = {"migrate": ["migrate"], "adopt": ["adopt"]}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOTIFY_TOKEN_KEYS", KEYS[0])
    monkeypatch.chdir(tmp_path)


class Shell:
    """Runs commands on one database within this process."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._url, self._capsys = url, capsys

    def run(self, *arguments: str, code: int = 0) -> str:
        """Return what the command says, and see that it ends with *code*."""
        assert cli.main([*arguments, "--database-url", self._url]) == code
        return self._capsys.readouterr().out

    def json(self, *arguments: str) -> Any:
        """Return the document that the command prints."""
        return json.loads(self.run(*arguments, "--json"))

    def do(self, action: Callable[[AsyncEngine], Awaitable[Any]]) -> Any:
        """Return what *action* does in the database."""

        async def done() -> Any:
            engine = database.create_engine(self._url, token_keyring=KEYRING)
            try:
                return await action(engine)
            finally:
                await engine.dispose()

        return asyncio.run(done())

    def execute(self, statement: str) -> None:
        """Run plain SQL."""

        async def executed(engine: AsyncEngine) -> None:
            async with engine.begin() as connection:
                await connection.execute(text(statement))

        self.do(executed)


@pytest.fixture
def shell(url: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Commands on a database with the schema and no rows."""
    return Shell(url, capsys)


@pytest.fixture
def empty_shell(empty_url: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    """Commands on a database with nothing in it."""
    return Shell(empty_url, capsys)


def test_jobs_are_enqueued_listed_and_shown(shell: Shell) -> None:
    """The ids that one command prints are what the others take."""
    first, second = shell.run("enqueue", "t1", "t2", "--priority", "7").split()

    listed = shell.run("jobs", "list").splitlines()
    assert listed[0].split() == ["Job", "Track", "Status", "Progress", "Attempt", "Created"]
    assert [line.split()[:3] for line in listed[1:]] == [
        [second, "t2", "pending"],
        [first, "t1", "pending"],
    ]
    shown = shell.json("jobs", "show", first)
    assert (shown["job_id"], shown["track_id"], shown["priority"]) == (first, "t1", 7)
    assert first in shell.run("jobs", "show", first)


def test_a_list_has_pages(shell: Shell) -> None:
    """Each tells the key of the next."""
    shell.run("enqueue", *(f"t{number}" for number in range(5)))
    tracks: list[str] = []
    after: list[str] = []
    while True:
        page = shell.json("jobs", "list", "--limit", "2", *after)
        tracks += [job["track_id"] for job in page["items"]]
        if page["after"] is None:
            break
        after = ["--after", page["after"]]
    assert tracks == ["t4", "t3", "t2", "t1", "t0"]
    assert "There are more: --after " in shell.run("jobs", "list", "--limit", "2")


def test_tracks_come_by_a_pipe(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank lines are none."""
    monkeypatch.setattr("sys.stdin", io.StringIO("t1\n\n t2 \n"))
    job_ids = shell.json("enqueue", "t3", "--stdin", "--max-attempts", "2")
    assert len(job_ids) == 3
    assert {job["max_attempts"] for job in shell.json("jobs", "list")["items"]} == {2}


def test_a_unique_job_is_there_once(shell: Shell) -> None:
    """The id of the one that is there is printed."""
    first = shell.run("enqueue", "t1", "--unique")
    assert shell.run("enqueue", "t1", "--unique") == first


def test_jobs_are_cancelled_retried_and_pruned(shell: Shell) -> None:
    """Each command says what it did."""
    running, failed, pending = shell.run("enqueue", "t1", "t2", "t3").split()
    shell.execute(
        "UPDATE download_jobs SET status = 'in_progress', worker_id = 'w'"
        f" WHERE job_id = '{running}'"
    )
    shell.execute(f"UPDATE download_jobs SET status = 'failed' WHERE job_id = '{failed}'")

    assert shell.run("jobs", "retry") == "Failed jobs that are pending again: 1\n"
    assert shell.json("jobs", "retry") == {"retried": 0}
    said = shell.run("jobs", "cancel", pending, running).splitlines()
    assert said == [
        f"{pending} is cancelled",
        f"{running} is in progress, and its worker is asked to stop",
    ]
    assert [job["status"] for job in shell.json("jobs", "cancel", failed)] == ["cancelled"]
    shell.execute("UPDATE download_jobs SET finished_at = '2026-01-01 00:00:00.000000'")
    assert shell.json("jobs", "prune", "--older-than", "4w", "--yes") == {"pruned": 2}
    assert shell.run("jobs", "prune", "--older-than", "1s", "--yes") == "Jobs deleted: 0\n"
    assert len(shell.json("jobs", "list")["items"]) == 1


def test_many_jobs_are_pruned_in_several_transactions(shell: Shell) -> None:
    """Until none is left."""
    shell.run("enqueue", *(f"t{number}" for number in range(1_001)))
    shell.execute(
        "UPDATE download_jobs SET status = 'failed', finished_at = '2026-01-01 00:00:00.000000'"
    )
    prune = ("jobs", "prune", "--older-than", "7d", "--yes")
    assert shell.json(*prune) == {"pruned": 0}
    assert shell.json(*prune, "--status", "failed") == {"pruned": 1_001}


@pytest.mark.parametrize("age", ["", "7", "d", "-1d", "7 d", "1y", "9999999999d"])
def test_an_age_has_a_unit(shell: Shell, age: str, tmp_path: Path) -> None:
    """The error says which there are."""
    message = complaint(tmp_path, "jobs", "prune", f"--older-than={age}", "--yes", code=1)
    assert message.startswith("older-than: ")


def test_what_is_not_there_cannot_be_shown_or_cancelled(shell: Shell) -> None:
    """One line, and nothing is done."""
    shell.run("jobs", "show", "nobody", code=1)
    shell.run("jobs", "cancel", "nobody", code=1)


def test_the_queue_is_paused_and_resumed(shell: Shell) -> None:
    """The figures tell."""
    shell.run("enqueue", "t1")
    assert shell.run("queue", "pause") == "The queue is paused\n"
    stats = shell.json("stats")
    assert (stats["pending"], stats["paused"]) == (1, True)
    assert "The oldest waits for" in shell.run("stats")
    assert shell.run("queue", "resume") == "The queue hands out jobs\n"
    assert shell.json("stats")["paused"] is False
    shell.execute("DELETE FROM download_jobs")
    assert "The oldest" not in shell.run("stats")


def test_the_token_is_told_and_deleted(shell: Shell) -> None:
    """When it expires, but never itself."""
    assert shell.json("token", "status") == {"logged_in": False}

    async def log_in(engine: AsyncEngine) -> None:
        async with database.create_session_factory(engine).begin() as db:
            login = {"access_token": "made-up", "refresh_token": "too", "expires_in": 60}
            await crud.create_or_update_spotify_token(db, login)

    shell.do(log_in)
    status = shell.json("token", "status")
    assert (status["logged_in"], status["needs_login"]) == (True, False)
    said = shell.run("token", "status")
    assert "expires at" in said
    assert "made-up" not in said
    assert shell.run("token", "delete", "--yes") == "There is no token any more\n"
    assert shell.json("token", "status") == {"logged_in": False}


def test_tables_are_made_upgraded_and_taken_back(empty_shell: Shell) -> None:
    """Each time it says where they are now."""
    assert empty_shell.run("migrate", "--to", "base") == "There are no tables\n"
    assert empty_shell.run("migrate", "--to", "0001") == "The tables are now at revision 0001\n"
    assert empty_shell.json("migrate") == {"before": "0001", "after": NEWEST}
    assert empty_shell.run("migrate") == f"The tables are at revision {NEWEST}: nothing to do\n"
    assert empty_shell.run("migrate", "--to", "0002", "--yes").endswith("revision 0002\n")
    assert empty_shell.run("migrate", "--to", "base", "--yes") == "The tables are gone\n"


def test_a_revision_that_there_is_none_of_is_refused(shell: Shell, tmp_path: Path) -> None:
    """Before anybody is asked."""
    message = complaint(tmp_path, "migrate", "--to", "9999", code=1)
    assert message.startswith("revision: Input should be one of 0001, ")


def test_a_database_of_the_original_is_adopted(empty_shell: Shell) -> None:
    """A dry run tells the same, and changes nothing; the second time there is nothing to do."""
    empty_shell.do(create_original)

    empty_shell.run("stats", code=4)
    assert empty_shell.run("adopt", "--dry-run").endswith("Dry run: nothing was written\n")
    assert empty_shell.json("adopt", "--dry-run")["dry_run"] is True
    assert "Tracks" in empty_shell.run("adopt")
    assert empty_shell.run("adopt") == "The tables are this library's already: nothing to do\n"
    empty_shell.run("stats")


def test_what_an_adoption_mended_is_told(
    empty_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line each, on stderr."""
    shell = Shell(empty_url, capsys)
    shell.do(create_original)
    shell.do(lambda engine: insert(engine, "download_jobs", job(progress=7.0)))
    assert cli.main(["adopt", "--database-url", empty_url]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "progress" in line]


def test_an_import_can_be_read_by_a_script(empty_shell: Shell, tmp_path: Path) -> None:
    """One document on stdout, and a new database gets its tables."""
    export = str(small_export(tmp_path))
    assert empty_shell.json("import", export, "--dry-run")["dry_run"] is True
    done = empty_shell.json("import", export)
    assert done["dry_run"] is False
    assert done["tracks_created"] > 0


@pytest.mark.parametrize("arguments", [*COMMANDS.values(), *CHANGING.values()], ids=" ".join)
def test_a_dead_database_is_told(tmp_path: Path, arguments: list[str]) -> None:
    """One line, and an exit code of its own."""
    message = complaint(tmp_path, *arguments, "--database-url", NOBODY_LISTENS, code=3)
    assert message.startswith("the database is unavailable: ")


@pytest.mark.parametrize("arguments", [*COMMANDS.values(), CHANGING["adopt"]], ids=" ".join)
def test_a_file_that_is_not_there_is_told_and_not_made(
    tmp_path: Path, arguments: list[str]
) -> None:
    """The line names the command that makes it."""
    url = f"sqlite:///{tmp_path / 'new.db'}"
    message = complaint(tmp_path, *arguments, "--database-url", url, code=4)
    assert "run `zotify-async-crud migrate`" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=" ".join)
def test_missing_tables_are_told(tmp_path: Path, empty_url: str, arguments: list[str]) -> None:
    """The line names the command that makes them."""
    if empty_url.startswith("sqlite"):
        sqlite3.connect(tmp_path / "new.db").close()
        (tmp_path / "new.db").touch()
    message = complaint(tmp_path, *arguments, "--database-url", empty_url, code=4)
    assert "run `zotify-async-crud migrate`" in message


@pytest.mark.parametrize("arguments", [*COMMANDS.values(), CHANGING["migrate"]], ids=" ".join)
def test_newer_tables_are_told(tmp_path: Path, arguments: list[str]) -> None:
    """The cure is a newer version of the program."""
    url = f"sqlite:///{tmp_path / 'newer.db'}"
    assert cli.main(["migrate", "--database-url", url]) == 0
    with sqlite3.connect(tmp_path / "newer.db") as file:
        file.execute("UPDATE zotify_alembic_version SET version_num = '9999'")
    file.close()
    message = complaint(tmp_path, *arguments, "--database-url", url, code=4)
    assert "install a newer zotify-async-crud" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["jobs", "prune", "--older-than", "1d"],
        ["token", "delete"],
        ["migrate", "--to", "base"],
    ],
    ids=" ".join,
)
def test_what_destroys_asks_first(empty_shell: Shell, empty_url: str, arguments: list[str]) -> None:
    """On a terminal; elsewhere it wants to be told."""
    empty_shell.run("migrate")
    command = [*PROGRAM, *arguments, "--database-url", empty_url]
    told = subprocess.run(
        command, check=False, capture_output=True, stdin=subprocess.DEVNULL, env=environment()
    )
    assert told.returncode == 2
    assert told.stderr.endswith(b"? Nobody can answer here: give --yes\n")
    for answer, code in ((b"n\n", 1), (b"\n", 1), (b"Yes\n", 0)):
        ours, theirs = pty.openpty()
        os.write(ours, answer)
        asked = subprocess.run(
            command, check=False, capture_output=True, stdin=theirs, env=environment()
        )
        os.close(ours)
        os.close(theirs)
        assert asked.returncode == code, asked.stderr
        assert b"? [y/N] " in asked.stderr


@pytest.mark.parametrize("arguments", sorted(COMMANDS.keys() - {"work", "watch"}))
def test_every_command_runs_in_a_process_of_its_own(
    shell: Shell, url: str, tmp_path: Path, arguments: str
) -> None:
    """With nothing on stderr, and no colours in a pipe."""
    if arguments in {"jobs show", "jobs cancel"}:
        command = [*COMMANDS[arguments][:-1], shell.run("enqueue", "t1").strip()]
    else:
        command = COMMANDS[arguments]
    done = run(tmp_path, *command, "--database-url", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout


def test_a_reader_may_have_enough(shell: Shell, url: str) -> None:
    """As head does: no traceback."""
    shell.run("enqueue", *(f"t{number}" for number in range(2_000)))
    listing = subprocess.Popen(
        [*PROGRAM, "jobs", "list", "--limit", "1000", "--json", "--database-url", url],
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


def test_completion_is_made_for_a_shell(tmp_path: Path) -> None:
    """The script is one that the shell accepts."""
    script = tmp_path / "completion.bash"
    script.write_text(cli.app.generate_completion(shell="bash"))  # noqa: S604 - it runs nothing
    subprocess.run(["/bin/bash", "-n", str(script)], check=True)
    assert "rotate-keys" in script.read_text()


def test_the_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """A script can rely on them."""
    assert cli.main(["--help"]) == 0
    assert "3 the database cannot be reached" in " ".join(capsys.readouterr().out.split())
