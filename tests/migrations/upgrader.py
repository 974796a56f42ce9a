"""A process that upgrades the databases whose URLs it reads, a line each, and answers each one."""

from __future__ import annotations

import asyncio
import sys

from zotify_async_crud import database, migrations


async def _upgrade(url: str) -> str:
    engine = database.create_engine(url)
    try:
        await migrations.upgrade(engine)
        return str(await migrations.current_revision(engine))
    finally:
        await engine.dispose()


def _main() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(f"{asyncio.run(_upgrade(line.strip()))}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
