"""What the command line says when something is wrong: one line, and an exit code to rely on."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.cli.programs import environment, run
from zotify_async_crud import cli

FAILURE, USAGE, UNREACHABLE = 1, 2, 3

NOBODY_LISTENS = "postgresql+asyncpg://127.0.0.1:1/zotify"


def write(path: Path, content: bytes) -> Path:
    """Write a file and return its path."""
    path.write_bytes(content)
    return path


def complaint(folder: Path, *arguments: str, code: int) -> str:
    """Run the program, which must fail with *code*, and return the one line that it says."""
    out, message = complaints(folder, *arguments, code=code)
    assert out == ""
    return message


def complaints(folder: Path, *arguments: str, code: int) -> tuple[str, str]:
    """Return what the program writes to stdout, too."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), redirect_stdout(out), redirect_stderr(err):
        assert cli.main(arguments) == code
    [line] = err.getvalue().splitlines()
    program, _, message = line.partition(": ")
    assert program == "zotify-async-crud"
    return out.getvalue(), message


def test_a_wrong_path_is_named(tmp_path: Path) -> None:
    """Nothing is created on the way."""
    path = tmp_path / "nowhere"
    message = complaint(tmp_path, "demo", "--export", str(path), code=FAILURE)
    assert message == f"{path}: No such file or directory"
    assert not list(tmp_path.iterdir())


def test_a_path_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """Line breaks and escapes in it are shown, not sent."""
    message = complaint(tmp_path, "demo", "--export", "no\nwhere\x1b[31m", code=FAILURE)
    assert message == r"no\nwhere\x1b[31m: No such file or directory"


def test_a_folder_without_an_export_is_told(tmp_path: Path) -> None:
    """The message says which files are looked for."""
    message = complaint(tmp_path, "demo", "--export", str(tmp_path), code=FAILURE)
    assert "neither Playlist1.json nor YourLibrary.json" in message


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"playlists": [', "line 1 column 15"),
        (b'{"playlists": [{"name": "Mix", "items": 3}]}', "playlists[0].items"),
        (b"\xff\xfe{}", "byte 0 is not UTF-8"),
    ],
)
def test_a_malformed_export_is_told_with_its_place(
    tmp_path: Path, content: bytes, place: str
) -> None:
    """The file's path stands first."""
    path = write(tmp_path / "Playlist1.json", content)
    message = complaint(tmp_path, "demo", "--export", str(path), code=FAILURE)
    assert message.startswith(f"{path}: ")
    assert place in message


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        (NOBODY_LISTENS, UNREACHABLE, "the database is unavailable: "),
        (f"{NOBODY_LISTENS}?password=s3cret", UNREACHABLE, "the database is unavailable: "),
        ("sqlite:///no/folder/zotify.db", UNREACHABLE, "the database refuses access: No such file"),
        ("sqlite:///notes.txt", UNREACHABLE, "the database refuses access: file is not a database"),
        ("mysql://user:s3cret@host/zotify", USAGE, "'mysql' is not supported: use postgresql+"),
        ("zotify.db", USAGE, "url: Input should be a database URL"),
        ("", USAGE, "url: Input should be a database URL"),
    ],
)
def test_a_database_that_cannot_be_used_is_told(
    tmp_path: Path, url: str, code: int, said: str
) -> None:
    """At once, and without the password."""
    write(tmp_path / "notes.txt", b"These are notes, and not a database at all. " * 100)
    message = complaint(tmp_path, "demo", "--database-url", url, code=code)
    assert message.startswith(said)
    assert "s3cret" not in message


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("postgresql://127.0.0.1/zotify", {"PGPORT": "x"}),
        ("postgresql://127.0.0.1/zotify", {"PGSSLMODE": "x"}),
        ("postgresql://127.0.0.1/zotify", {"PGTARGETSESSIONATTRS": "x"}),
        ("postgresql://127.0.0.1/zotify?ssl=x", {}),
        ("postgresql://127.0.0.1/zotify?target_session_attrs=x", {}),
        (f"postgresql://{'x' * 64}/zotify", {}),
    ],
)
@pytest.mark.parametrize("command", ["demo", "doctor", "migrate", "stats", "watch"])
def test_what_the_driver_cannot_use_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    variables: dict[str, str],
    command: str,
) -> None:
    """The driver looks at some of it only when it connects."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    _, message = complaints(tmp_path, command, "--database-url", url, code=USAGE)
    assert message.startswith("url: ")


def test_the_process_writes_nothing_but_that_line(tmp_path: Path) -> None:
    """SQLAlchemy logs, with tracebacks, what the line tells."""
    finished = run(tmp_path, "demo", "--database-url", NOBODY_LISTENS)
    assert (finished.returncode, finished.stdout) == (UNREACHABLE, "")
    assert finished.stderr.startswith("zotify-async-crud: the database is unavailable: ")
    assert finished.stderr.count("\n") == 1


def test_several_processes_need_a_database_that_all_find(tmp_path: Path) -> None:
    """One in memory is its process's own."""
    message = complaint(
        tmp_path, "demo", "--database-url", "sqlite://", "--processes", "2", code=USAGE
    )
    assert message.startswith("processes: Input should be 1, ")


def test_a_database_that_does_not_exist_is_told(tmp_path: Path, postgresql_server: str) -> None:
    """The server answers, and has no such database."""
    url = make_url(postgresql_server).set(database="no_such_database")
    text = url.render_as_string(hide_password=False)
    message = complaint(tmp_path, "demo", "--database-url", text, code=UNREACHABLE)
    assert message.startswith("the database refuses access: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--workers", "0"),
        ("demo", "--workers", "101"),
        ("demo", "--workers", "many"),
        ("demo", "--processes", "0"),
        ("demo", "--processes", "33"),
        ("demo", "--workers"),
        ("demo", "--no-such-option"),
        ("demo", "stray"),
        ("no-such-command",),
    ],
)
def test_wrong_options_are_told(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Their exit code is another than that of a failure."""
    assert complaint(tmp_path, *arguments, code=USAGE)
    assert not list(tmp_path.iterdir())


def run_without(module: str) -> subprocess.CompletedProcess[str]:
    """Run the program as if *module* were not installed."""
    program = (
        f"import runpy, sys; sys.modules[{module!r}] = None;"
        " runpy.run_module('zotify_async_crud', run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", program, "--version"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("module", ["cyclopts", "ijson", "rich"])
def test_a_missing_extra_is_told_with_the_command_that_installs_it(module: str) -> None:
    """The package itself needs neither."""
    finished = run_without(module)
    assert (finished.returncode, finished.stdout) == (FAILURE, "")
    assert finished.stderr.count("\n") == 1
    assert "pip install 'zotify-async-crud[cli]'" in finished.stderr


def test_another_missing_module_is_not_taken_for_the_extra() -> None:
    """A broken installation must not send its user to the wrong place."""
    finished = run_without("zotify_async_crud.importers")
    assert finished.returncode == FAILURE
    assert "ModuleNotFoundError" in finished.stderr
    assert "zotify-async-crud[cli]" not in finished.stderr
