"""What the commands ask for: an answer on the terminal, and lines on standard input."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.cli.programs import CTRL_C, PROGRAM, TIMEOUT, environment, run_on_terminal, start
from tests.cli.shell import Shell

DESTRUCTIVE: Final = [
    ("jobs", "prune", "--older-than", "1d"),
    ("token", "delete"),
    ("migrate", "--to", "base"),
    ("adopt",),
]
ENTER, CTRL_D = "\r", "\x04"
MORE_THAN_A_PIPE_HOLDS: Final = "t1\n" * 100_000
QUESTION: Final = r"\? \[y/N\] "


@pytest.fixture
def shell(empty_shell: Shell) -> Shell:
    """Commands on a database of its own, whose tables may be lost."""
    empty_shell.run("migrate")
    return empty_shell


@pytest.mark.parametrize("command", DESTRUCTIVE, ids=" ".join)
def test_what_destroys_asks_nobody_where_nobody_can_answer(
    shell: Shell, command: tuple[str, ...]
) -> None:
    """As in a script, which says so by an option."""
    finished = subprocess.run(
        [*PROGRAM, *command, "--database-url", shell.url],
        check=False,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )
    assert (finished.returncode, finished.stdout) == (2, b"")
    assert finished.stderr.endswith(b"? Nobody can answer here: give --yes\n")
    assert finished.stderr.count(b"\n") == 1
    assert shell.json("migrate")["before"] is not None


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("answer", "code"),
    [("n" + ENTER, 1), (ENTER, 1), (CTRL_D, 1), (CTRL_C, 130)],
    ids=["no", "nothing", "end", "interrupt"],
)
def test_nothing_but_yes_is_an_answer_to_do_it(
    shell: Shell, tmp_path: Path, answer: str, code: int
) -> None:
    """Whatever is typed, or not."""
    command = ("migrate", "--to", "base", "--database-url", shell.url)
    found, drawn = run_on_terminal(tmp_path, *command, press=answer, at=QUESTION)
    assert found == code, drawn
    assert ("nothing was done" in drawn) is (code == 1)
    assert shell.json("migrate")["before"] is not None


@pytest.mark.parametrize("command", DESTRUCTIVE, ids=" ".join)
def test_what_destroys_asks_first(shell: Shell, tmp_path: Path, command: tuple[str, ...]) -> None:
    """On a terminal, where somebody can say yes."""
    command = (*command, "--database-url", shell.url)
    code, drawn = run_on_terminal(tmp_path, *command, press="y" + ENTER, at=QUESTION)
    assert code == 0, drawn
    assert (shell.json("migrate")["before"] is None) is (command[0] == "migrate")


def test_an_interrupt_ends_the_wait_for_standard_input(shell: Shell, tmp_path: Path) -> None:
    """At once, and nothing of what has come is enqueued."""
    command = ("enqueue", "--stdin", "--database-url", shell.url)
    process = start(tmp_path, *command, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(MORE_THAN_A_PIPE_HOLDS)  # which is over when the process reads
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT) == 130
    [line] = (tmp_path / "output").read_text().splitlines()
    assert line.startswith("Interrupted")
    assert shell.json("jobs", "list")["items"] == []
    process.stdin.close()
