"""The command line within this process: its options, what it shows, and its exit codes."""

from __future__ import annotations

import shlex
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest

from tests.cli.programs import PROGRAM, environment, run, small_export
from zotify_async_crud import __main__, cli
from zotify_async_crud.demo import _downloads


def test_the_command_runs_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a shell, twice."""
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--export", str(small_export(tmp_path)), "--workers", "2"]
    assert cli.main(arguments) == 0
    assert "Download: 12 done" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert "Nothing is left to download" in capsys.readouterr().out


def test_the_command_draws_bars_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Remarks stand above them, and failures beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(_downloads, "FAILURE_RATE", 0.5)
    arguments = ["demo", "--export", str(small_export(tmp_path, 30))]
    assert cli.main(arguments) == 0
    drawn = capsys.readouterr().out
    assert "━" in drawn
    assert "attempts failed" in drawn
    assert cli.main(arguments) == 0
    assert "Nothing is left to download" in capsys.readouterr().out


def test_the_command_fails_while_jobs_are_not_completed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up after some rounds, and the next run goes on."""
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--export", str(small_export(tmp_path))]
    with monkeypatch.context() as patch:
        patch.setattr(_downloads, "FAILURE_RATE", 1.1)
        patch.setattr(_downloads, "ROUNDS", 1)
        patch.setattr(_downloads, "BACKOFF", lambda _: 0.0)
        assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert "│ Jobs completed                               │  0 │" in said.out
    assert said.err.count("\n") == 1
    assert said.err.startswith("zotify-async-crud: jobs that are not completed: 12; ")
    assert cli.main(arguments) == 0


def test_the_environment_names_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option goes before it. The demo is not for a database that somebody uses."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOTIFY_DATABASE_URL", "sqlite:///mine.db")
    assert cli.main(["migrate"]) == 0
    assert (tmp_path / "mine.db").exists()
    assert cli.main(["migrate", "--database-url", "sqlite:///option.db"]) == 0
    assert (tmp_path / "option.db").exists()
    before = (tmp_path / "mine.db").read_bytes()
    assert cli.main(["demo", "--export", str(small_export(tmp_path))]) == 0
    assert (tmp_path / "zotify-demo.db").exists()
    assert (tmp_path / "mine.db").read_bytes() == before


def test_a_database_in_memory_is_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of it, and nothing is written to the folder."""
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--database-url", "sqlite://", "--export", str(small_export(tmp_path))]
    assert cli.main(arguments) == 0
    assert "Download: 12 done" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_the_command_tells_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those of its options, with an exit code of their own."""
    assert cli.main(["demo", "--export", str(tmp_path)]) == 1
    assert cli.main(["demo", "--workers", "none"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 2)


def test_version_and_help_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of the demo names its options and its limits."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == metadata.version("zotify-async-crud")
    assert cli.main([]) == cli.main(["--help"]) == 0
    assert "demo" in capsys.readouterr().out
    assert cli.main(["demo", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for option in ("--export", "--database-url", "--workers", "--processes"):
        assert option in told
    assert "Several may work on one database" in told


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_entry_point_exits_with_the_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell sees what the command line returns."""
    monkeypatch.setattr(cli, "main", lambda: code)
    with pytest.raises(SystemExit) as exit_:
        __main__.main()
    assert exit_.value.code == code


def test_the_entry_point_tells_an_interrupt_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is the one that shells give to a program ended by Ctrl-C."""

    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    with pytest.raises(SystemExit) as exit_:
        __main__.main()
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "Interrupted: run the same command again to go on\n"


def test_the_command_imports_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows what changed; a dry run changes nothing."""
    monkeypatch.chdir(tmp_path)
    arguments = ["import", str(small_export(tmp_path)), "--database-url", "sqlite:///mine.db"]
    assert cli.main([*arguments, "--dry-run"]) == 0
    tried = capsys.readouterr().out
    assert "Dry run: nothing was written" in tried
    assert cli.main(arguments) == 0
    done = capsys.readouterr().out
    assert tried.replace("Dry run: nothing was written\n", "") == done
    assert "│ Tracks new                                   │ 12 │" in done
    assert cli.main(arguments) == 0
    assert "│ Tracks new                                   │ 0 │" in capsys.readouterr().out


def test_the_command_imports_what_is_not_malformed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When asked to; by default it names the first and writes nothing."""
    monkeypatch.chdir(tmp_path)
    export = tmp_path / "Playlist1.json"
    export.write_text('{"playlists": [{"name": "Mix", "items": ["wrong"]}]}')
    assert cli.main(["import", str(export)]) == 1
    place = f"{export}: playlists[0].items[0]: Input should be an object"
    assert capsys.readouterr().err == f"zotify-async-crud: {place}\n"
    assert cli.main(["import", str(export), "--skip-malformed"]) == 0
    said = capsys.readouterr()
    assert said.err == f"zotify-async-crud: left out: {place}\n"
    assert "│ Playlists created                            │ 1 │" in said.out


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


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@host/zotify",
        "postgresql://user:a@s3cret@host/zotify",
        "postgresql://user:a/s3cret@host/zotify",
        "postgresql://host/zotify?user=user&password=s3cret",
    ],
)
def test_a_password_in_a_wrong_place_is_not_shown(
    capsys: pytest.CaptureFixture[str], url: str
) -> None:
    """As where the option's name was forgotten."""
    assert cli.main(["stats", url]) == 2
    said = capsys.readouterr().err
    assert "s3cret" not in said
    assert "postgresql://***" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "list", "--limit", "1.5"),
        ("enqueue", "t", "--max-attempts", "0.6"),
        ("demo", "--workers", "2.5"),
        ("work", "handlers:download", "--concurrency", "1e1"),
    ],
)
def test_a_fraction_is_no_number_of_things(arguments: tuple[str, ...]) -> None:
    """And is not rounded."""
    assert cli.main(arguments) == 2


_REDIRECTIONS: Final = {
    "stdin": ("enqueue --stdin <&-", 0, ""),
    "stdin that only writes": ("enqueue --stdin 0>/dev/null", 1, "Bad file descriptor"),
    "stdin of a question": ("token delete <&-", 2, "Nobody can answer here"),
    "stdout": ("jobs list >&-", 0, ""),
    "stderr": ("jobs list --limit 0 2>&-", 2, ""),
    "full disk": ("jobs list >/dev/full", 1, "zotify-async-crud: No space left on device\n"),
    "all": ("jobs list <&- >&- 2>&-", 0, ""),
}


@pytest.mark.parametrize(("command", "code", "said"), _REDIRECTIONS.values(), ids=_REDIRECTIONS)
def test_standard_streams_may_be_missing(
    tmp_path: Path, command: str, code: int, said: str
) -> None:
    """As where a service manager closes them. What cannot be written is told in one line."""
    assert cli.main(["migrate", "--database-url", f"sqlite:///{tmp_path}/zotify.db"]) == 0
    before = (tmp_path / "zotify.db").read_bytes()
    finished = subprocess.run(
        ["/bin/sh", "-c", f"{shlex.join(PROGRAM)} {command}"],
        check=False,
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == code, finished.stderr
    assert said in finished.stderr
    assert finished.stderr.count("\n") <= 1
    assert (tmp_path / "zotify.db").read_bytes() == before


def test_a_terminal_need_not_have_every_letter(tmp_path: Path) -> None:
    """What it cannot show is escaped."""
    assert run(tmp_path, "migrate").returncode == 0
    assert run(tmp_path, "enqueue", "t\u00e9").returncode == 0
    finished = run(tmp_path, "jobs", "list", PYTHONIOENCODING="ascii")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "t\\xe9" in finished.stdout


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    """As in a file of variables whose values are filled in later."""
    nothing = {f"ZOTIFY_DATABASE_{name}": "" for name in ("URL", "SCHEMA", "PGBOUNCER")}
    assert run(tmp_path, "migrate", **nothing).returncode == 0
    assert (tmp_path / "zotify.db").exists()
