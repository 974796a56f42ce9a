"""The program of a worker process; ``_processes`` starts it, and tells it all by a pipe."""

from __future__ import annotations

import asyncio
import logging
import sys

from zotify_async_crud import _processes, database
from zotify_async_crud.demo._downloads import Worker
from zotify_async_crud.errors import ZotifyCrudError


def main() -> None:
    """Say "ready", and do what the line that comes then says until standard input ends."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # what is wrong is told in one line
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    worker = Worker(**_processes.what_to_do())
    try:
        asyncio.run(_work(worker))
    except ZotifyCrudError as error:
        sys.exit(str(error))


async def _work(worker: Worker) -> None:
    engine = database.create_engine(worker.database_url)
    pool = worker.pool(database.create_session_factory(engine))
    try:
        with _processes.obeying_input(pool.stop):
            await pool.run()
    finally:
        await engine.dispose()


if __name__ == "__main__":
    main()
