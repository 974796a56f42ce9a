"""A worker service: start it as often as you like, on as many hosts as you like.

Run it with ``python -m examples.worker sqlite:///zotify.db``. SIGTERM or Ctrl-C lets the downloads
that run end; a second one stops them at once, and gives their jobs back to the queue.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal

from zotify_async_crud import database, migrations
from zotify_async_crud.worker import Counts, Discard, Handler, JobContext, WorkerPool

LOG = logging.getLogger("examples.worker")


def downloader(seconds: float) -> Handler:
    """Return a handler that takes so long for a track, and downloads nothing: put yours here."""

    async def download(job: JobContext) -> None:
        LOG.info("downloading %s", job.track_id)
        for percent in range(0, 100, 10):
            if job.cancel_requested:
                raise Discard("cancelled")
            await job.report(percent / 100)
            await asyncio.sleep(seconds / 10)
        LOG.info("downloaded %s", job.track_id)

    return download


async def serve(url: str, handler: Handler) -> Counts:
    """Work until a signal says to stop."""
    engine = database.create_engine(url)
    try:
        await migrations.upgrade(engine)
        pool = WorkerPool(database.create_session_factory(engine), handler, concurrency=10)
        stops: list[asyncio.Task[None]] = []  # the loop itself keeps no task alive

        def stop() -> None:
            LOG.info("stopping")
            stops.append(asyncio.create_task(pool.stop()))

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        return await pool.run()
    finally:
        await engine.dispose()


def main() -> None:
    """Read the command line, configure the log, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="the database")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a download takes")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    counts = asyncio.run(serve(options.url, downloader(options.seconds)))
    LOG.info("stopped: %s", counts)


if __name__ == "__main__":
    main()
