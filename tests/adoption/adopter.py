"""A process that adopts the databases whose URLs it reads, a line each, and tells of each."""

from __future__ import annotations

import asyncio
import sys

from tests.support.secrets import KEYRING
from zotify_async_crud import database
from zotify_async_crud.adoption import adopt


async def _adopt(url: str) -> str:
    engine = database.create_engine(url, token_keyring=KEYRING)
    try:
        report = await adopt(engine)
    finally:
        await engine.dispose()
    return "nothing" if report.nothing_to_do else str(sum(report.jobs.values()))


def _say(answer: str) -> None:
    sys.stdout.write(f"{answer}\n")
    sys.stdout.flush()


def _main() -> None:
    _say("ready")
    for line in sys.stdin:
        _say(asyncio.run(_adopt(line.strip())))


if __name__ == "__main__":
    _main()
