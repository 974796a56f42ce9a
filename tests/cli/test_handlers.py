"""Handlers that are named on the command line, and what is said of those that cannot be used."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.services import modules_of
from tests.support.factories import Sessions
from tests.support.pools import drain, enqueue, statuses
from zotify_async_crud.cli._handlers import import_handler
from zotify_async_crud.errors import InvalidValue

MODULE = """
import functools

async def download(job):
    print("downloaded", job.track_id)

async def fail(job):
    raise ValueError("no route\\nto host")

async def say_nothing(job):
    raise KeyError

class Downloader:
    async def __call__(self, job):
        pass

    async def download(self, job):
        pass

    def __getattr__(self, name):
        raise AttributeError(name)

downloader = Downloader()
bound = functools.partial(fail)
number = 7

def forgets_async(job):
    pass

def __getattr__(name):
    if name == "broken":
        raise RuntimeError("not today")
    raise AttributeError(name)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path) -> Iterator[Path]:
    """A folder to be in, with handlers."""
    (tmp_path / "handlers.py").write_text(MODULE)
    with modules_of(tmp_path):
        yield tmp_path


def refusal(name: str) -> str:
    """Return what is said of a handler that cannot be used."""
    with pytest.raises(InvalidValue) as refused:
        import_handler(name)
    message = str(refused.value)
    assert message.startswith("handler: ")
    assert "\n" not in message
    return message.removeprefix("handler: ")


@pytest.mark.parametrize("name", ["download", "fail", "downloader", "downloader.download", "bound"])
def test_a_coroutine_function_of_any_kind_is_a_handler(here: Path, name: str) -> None:
    """It is found in the current folder, before whatever else has its name."""
    import_handler(f"handlers:{name}")
    assert sys.path[0] == str(here)
    import_handler(f"handlers:{name}")
    assert sys.path.count(str(here)) == 1


@pytest.mark.parametrize("name", ["", "handlers", "handlers:", ":download", "a:b:c", "a b:c"])
def test_a_name_that_is_none_is_told_with_an_example(name: str) -> None:
    """It is the first that anybody types."""
    assert refusal(name) == "Input should be MODULE:NAME, such as downloads:download"


@pytest.mark.parametrize("module", ["nowhere", "handlers.py", "nowhere.deeper"])
def test_a_missing_module_is_named(module: str) -> None:
    """A file's name is no module's."""
    assert refusal(f"{module}:download") == (
        f"there is no module {module}, in this folder or installed"
    )


def test_a_missing_name_is_told() -> None:
    """With the module that was looked into."""
    assert refusal("handlers:upload") == "the module handlers has no upload"
    assert refusal("handlers:downloader.upload") == "the module handlers has no downloader.upload"


@pytest.mark.parametrize("name", ["forgets_async", "number", "Downloader"])
def test_what_is_no_coroutine_function_is_refused(name: str) -> None:
    """A pool would find out at the first job, and fail it."""
    assert refusal(f"handlers:{name}") == (
        f"handlers:{name} is no coroutine function: define it by async def"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("\nraise ValueError('no\\ntoken')", "ValueError: no token (broken.py, line 2)"),
        ("raise SystemExit", "SystemExit (broken.py, line 1)"),
        ("def f(:", "SyntaxError: invalid syntax (broken.py, line 1)"),
        ("import nowhere_else", "ModuleNotFoundError: No module named 'nowhere_else'"),
        ("import json; json.loads('')", "JSONDecodeError: Expecting value"),
    ],
)
def test_what_an_import_raises_is_told_in_one_line(here: Path, content: str, said: str) -> None:
    """With the place, where it is in somebody's own code."""
    (here / "broken.py").write_text(content)
    message = refusal("broken:download")
    assert message.startswith(f"the import of broken failed: {said}")
    assert message.count("(broken.py, line ") == 1


def test_the_place_is_where_it_was_raised(here: Path) -> None:
    """Which may be in another of somebody's modules."""
    (here / "broken.py").write_text("import deeper")
    (here / "deeper.py").write_text("\n\nraise ValueError('no token')")
    said = "the import of broken failed: ValueError: no token (deeper.py, line 3)"
    assert refusal("broken:download") == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fail", "ValueError: no route to host (handlers.py, line 8)"),
        ("say_nothing", "KeyError (handlers.py, line 11)"),
    ],
)
async def test_what_a_handler_raises_is_logged_in_one_line(
    sessions: Sessions, caplog: pytest.LogCaptureFixture, name: str, said: str
) -> None:
    """The job keeps it as before."""
    (job_id,) = await enqueue(sessions, max_attempts=1)
    with caplog.at_level(logging.INFO):
        counts = await drain(sessions, import_handler(f"handlers:{name}"))
    assert counts.failed == 1
    assert caplog.messages == [f"job {job_id}, attempt 1 of 1: {said}"]


async def test_a_handler_is_called_with_the_job(
    sessions: Sessions, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is the very one that was named."""
    await enqueue(sessions)
    await drain(sessions, import_handler("handlers:download"))
    assert capsys.readouterr().out == "downloaded t0\n"
    assert await statuses(sessions) == {"completed": 1}


def test_a_module_that_fails_to_give_the_handler_is_told() -> None:
    """In one line, as a failed import is."""
    assert "RuntimeError: not today (handlers.py, line " in refusal("handlers:broken")
