"""Worker processes of the command ``work``, seen from the process that keeps them running."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.services import HANDLERS, modules_of
from tests.support.pools import PATIENCE, until
from zotify_async_crud import cli
from zotify_async_crud.cli import _crew
from zotify_async_crud.cli._crew import Crew, CrewDied
from zotify_async_crud.cli._options import Target
from zotify_async_crud.cli._worker import Order, logging_to_stderr
from zotify_async_crud.errors import LeaseLost
from zotify_async_crud.worker import Counts

DIES = "raise SystemExit(7)"
DOES_NOT_END = "import time; time.sleep(3600)"
DIES_SIX_TIMES = """
import json, pathlib
past = pathlib.Path("deaths")
deaths = past.stat().st_size if past.exists() else 0
with past.open("a") as file:
    file.write("x")
if deaths < 6:
    raise SystemExit(7)
print(json.dumps({"claimed": 3, "completed": 2, "failed": 1}))
"""


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace processes at once; collect how many deaths in a row there were before each."""
    deaths: list[int] = []

    def pause(number: int) -> float:
        deaths.append(number)
        return 0.0

    monkeypatch.setattr(_crew, "_PAUSES", pause)
    return deaths


@pytest.fixture
def order(tmp_path: Path, paused: list[int]) -> Iterator[Order]:
    """What processes are to do."""
    (tmp_path / "handlers.py").write_text(HANDLERS)
    with modules_of(tmp_path):
        yield Order(
            handler="handlers:download",
            target=Target("sqlite:///zotify.db"),
            concurrency=1,
            lease=60.0,
            shutdown_timeout=0.0,
            until_idle=True,
        )


def use_program(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let worker processes run *program* instead of their own."""
    monkeypatch.setattr(_crew, "_PROGRAM", ("-c", program))


def logged(caplog: pytest.LogCaptureFixture, message: str) -> Callable[[], Awaitable[bool]]:
    """Ask whether *message* was logged."""

    async def is_logged() -> bool:
        return any(message in line for line in caplog.messages)

    return is_logged


async def test_one_that_cannot_live_ends_all(
    order: Order,
    paused: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After some deaths in a row it is clear that another try is no use."""
    use_program(monkeypatch, DIES)
    with pytest.raises(CrewDied) as died:
        await Crew(order, 1).run()
    fate = "worker process 1 ended with exit code 7"
    assert str(died.value) == f"{fate}, 5 times in a row soon after its start"
    assert caplog.messages == [fate] * 4
    assert paused == [1, 2, 3, 4]


async def test_deaths_after_a_life_do_not_add_up(
    order: Order, paused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that kills its process now and then is no reason to give up."""
    use_program(monkeypatch, DIES_SIX_TIMES)
    monkeypatch.setattr(_crew, "_LONG", -1.0)
    assert await Crew(order, 1).run() == Counts(claimed=3, completed=2, failed=1)
    assert paused == [1] * 6


async def test_one_that_does_not_end_is_killed(
    order: Order, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A second request is the last that is waited for, and nothing is started any more."""
    caplog.set_level(logging.INFO)
    use_program(monkeypatch, DOES_NOT_END)
    crew = Crew(dataclasses.replace(order, shutdown_timeout=3_600.0), 2)
    running = asyncio.create_task(crew.run())
    await until(logged(caplog, "worker process 2 started"))
    first = asyncio.create_task(crew.stop())
    await asyncio.sleep(0)
    monkeypatch.setattr(_crew, "_GRACE", 0.01)
    await crew.stop()
    assert await running == Counts()
    await first
    killed = [f"worker process {number} was killed by signal 9" for number in (1, 2)]
    assert sorted(line for line in caplog.messages if "killed" in line) == killed


async def test_one_that_does_not_end_is_killed_after_another_has_failed(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command must not hang because one of its processes does."""
    use_program(
        monkeypatch, "import pathlib; pathlib.Path('first').touch(exist_ok=False);" + DOES_NOT_END
    )
    monkeypatch.setattr(_crew, "_GRACE", 0.01)
    with pytest.raises(CrewDied):
        async with asyncio.timeout(PATIENCE):
            await Crew(order, 2).run()


async def test_a_request_to_stop_may_come_while_one_starts(
    order: Order, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It gets it as soon as it is there."""
    use_program(monkeypatch, "import sys; sys.stdin.readline(); sys.stdin.read(1); print('{}')")
    crew = Crew(order, 1)
    running = asyncio.create_task(crew.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it is about to start one
    await crew.stop()
    assert await running == Counts()
    assert not caplog.messages


async def test_a_request_to_stop_ends_the_pause_before_the_next(
    order: Order, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody waits for what will not be started."""
    use_program(monkeypatch, DIES)
    monkeypatch.setattr(_crew, "_PAUSES", lambda _: 3_600.0)
    crew = Crew(order, 1)
    running = asyncio.create_task(crew.run())
    await until(logged(caplog, "worker process 1 ended with exit code 7"))
    await crew.stop()
    assert await running == Counts()


async def test_one_that_cannot_use_the_database_says_so_in_a_line(
    order: Order, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The tables are gone since they were looked for."""
    monkeypatch.setattr(_crew, "_MOST_DEATHS", 1)
    with pytest.raises(CrewDied):
        await Crew(order, 1).run()
    lines = capfd.readouterr().err.splitlines()
    assert " ERROR " in lines[-1]
    assert all("the tables are missing" in line for line in lines)


def test_the_log_shows_where_an_unknown_error_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that the library raises on purpose says all by its message."""
    with logging_to_stderr():
        for error in (LeaseLost("j", 1), ValueError("no route")):
            logging.getLogger().error("feeding: %s", error, exc_info=error)
        logging.getLogger("sqlalchemy.pool").error("this is told by the error that it leads to")
    written = capsys.readouterr().err.splitlines()
    assert written[0].endswith(" feeding: attempt 1 at download job j lost its lease")
    assert written[1].endswith(" feeding: no route")
    assert written[2:] == ["ValueError: no route"]


def test_the_command_ends_with_that_line(
    order: Order,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its exit code tells that it is not done."""
    use_program(monkeypatch, DIES)
    arguments = ("work", order.handler, "--database-url", url, "--processes", "2")
    assert cli.main(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("zotify-async-crud: worker process ")
    assert last.endswith(" ended with exit code 7, 5 times in a row soon after its start")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--lease", "0"), "lease: Input should be "),
        (("--concurrency", "0"), "concurrency: Input should be "),
        (("--shutdown-timeout", "-1"), "shutdown_timeout: Input should be "),
    ],
)
def test_wrong_options_are_told_before_anything_is_started(
    order: Order, url: str, capsys: pytest.CaptureFixture[str], option: tuple[str, str], said: str
) -> None:
    """By the one line that the pool itself has for them."""
    arguments = ("work", order.handler, "--database-url", url, "--processes", "2", *option)
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"zotify-async-crud: {said}")


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("postgresql://127.0.0.1:1/zotify", 3, "the database is unavailable: "),
        ("sqlite:///zotify.db", 4, "the tables are missing "),
    ],
    indirect=False,
)
def test_a_database_that_cannot_be_used_is_told_at_the_start(
    order: Order, capsys: pytest.CaptureFixture[str], url: str, code: int, said: str
) -> None:
    """Later, it is waited for."""
    assert cli.main(("work", order.handler, "--database-url", url, "--processes", "2")) == code
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zotify-async-crud: {said}")
