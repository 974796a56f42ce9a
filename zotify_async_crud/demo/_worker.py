"""The program of a worker process; ``_processes`` starts it, and tells it all by a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading

from zotify_async_crud import database
from zotify_async_crud.demo._downloads import Worker, first_failure
from zotify_async_crud.errors import ZotifyCrudError
from zotify_async_crud.worker import WorkerPool


def main() -> None:
    """Say "ready", and do what the line that comes then says until standard input ends."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # what is wrong is told in one line
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    worker = Worker(**json.loads(sys.stdin.readline()))
    try:
        asyncio.run(_work(worker))
    except ZotifyCrudError as error:
        sys.exit(str(error))


async def _work(worker: Worker) -> None:
    engine = database.create_engine(worker.database_url)
    pool = worker.pool(database.create_session_factory(engine))
    try:
        with first_failure():
            async with asyncio.TaskGroup() as group:
                group.create_task(_stop_with_input(pool))
                await pool.run()
    finally:
        await engine.dispose()


async def _stop_with_input(pool: WorkerPool) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        os.read(sys.stdin.fileno(), 1)
        with contextlib.suppress(RuntimeError):  # the loop is closed, since the pool has failed
            loop.call_soon_threadsafe(ended.set)

    # not by asyncio.to_thread, whose threads are waited for
    threading.Thread(target=read, daemon=True).start()
    await ended.wait()
    await pool.stop()


if __name__ == "__main__":
    main()
