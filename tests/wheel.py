"""A program for an environment with nothing but the built wheel in it, away from the checkout.

It makes, upgrades and takes over databases, and runs each command once: ``python -m tests.wheel``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import zotify_async_crud
from tests.adoption.original import create_original, insert, job
from tests.support import postgresql
from tests.support.databases import new_database
from zotify_async_crud import adoption, database, migrations
from zotify_async_crud.demo import SAMPLE_EXPORT

PROGRAM: Final = str(Path(sys.executable).with_name("zotify-async-crud"))
HANDLER: Final = "async def download(job):\n    print(job.track_id)\n"
COMMANDS: Final = """
migrate
doctor
adopt --yes
enqueue t1 t2
jobs list
jobs show {job}
jobs cancel {job}
jobs retry
queue pause
queue resume
stats --json
watch --once
work handlers:download --until-idle
jobs prune --older-than 1s --yes
demo --database-url {url}
import {export} --dry-run
token status
token rotate-keys
token delete --yes
migrate --to base --yes
"""


def run(url: str, *arguments: str) -> str:
    """Run the program to its end, without an error, and return what it says."""
    print("$", PROGRAM, *arguments)  # noqa: T201 - what it is for
    variables = {**os.environ, "ZOTIFY_DATABASE_URL": url}
    finished = subprocess.run(
        [PROGRAM, *arguments], env=variables, check=False, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout


def use_commands(url: str) -> None:
    """Run each command once."""
    run(url, "migrate")
    os.environ["ZOTIFY_TOKEN_KEYS"] = run(url, "token", "generate-key").strip()
    known = {"url": url, "job": run(url, "enqueue", "t0").strip(), "export": str(SAMPLE_EXPORT)}
    for line in COMMANDS.split("\n"):
        if line:
            run(url, *shlex.split(line.format(**known)))


async def use_functions(url: str) -> None:
    """Make the tables of a new database by the functions that the commands call."""
    engine = database.create_engine(url)
    await migrations.upgrade(engine)
    await migrations.check_schema(engine)
    assert await migrations.current_revision(engine) == migrations.newest_revision()
    assert (await adoption.adopt(engine)).nothing_to_do
    await engine.dispose()


async def take_over(url: str) -> None:
    """Adopt a database of the original, first by the command, and then by the function."""
    engine = database.create_engine(url)
    await create_original(engine)
    await insert(engine, "download_jobs", job("j1"), job("j2", status="in_progress"))
    await asyncio.to_thread(run, url, "adopt", "--dry-run")
    await asyncio.to_thread(run, url, "adopt", "--yes")
    assert (await adoption.adopt(engine)).nothing_to_do
    await migrations.check_schema(engine)
    await engine.dispose()
    assert (await asyncio.to_thread(run, url, "jobs", "list")).count(" pending ") == 2


async def use_database(name: str, server: str) -> None:
    """Use three new databases of a kind."""
    folder = Path()
    async with new_database(name, folder, server) as url:
        await asyncio.to_thread(use_commands, url)
    async with new_database(name, folder, server) as url:
        await use_functions(url)
    async with new_database(name, folder, server) as url:
        await take_over(url)


def main() -> None:
    """Use both kinds of databases, in an empty folder."""
    assert Path(zotify_async_crud.__path__[0]).is_relative_to(sys.prefix)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        postgresql.server() as server,
    ):
        Path("handlers.py").write_text(HANDLER)
        for name in ("postgresql", "sqlite"):
            asyncio.run(use_database(name, server))


if __name__ == "__main__":
    main()
