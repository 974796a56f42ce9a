"""Runs the benchmarks: ``python -m benchmarks [subject …]``."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from benchmarks import importing, overhead, pickup, streaming, upgrade
from benchmarks.databases import Databases, databases
from benchmarks.playlists import sync
from benchmarks.queue import backlog, drain, enqueue, idle, latency, single
from benchmarks.report import Report

SUBJECTS: Final[dict[str, Callable[[Databases, Report], Awaitable[None]]]] = {
    "playlist_sync": sync.run,
    "import": importing.run,
    "overhead": overhead.run,
    "streaming": streaming.run,
    "pickup": pickup.run,
    "drain": drain.run,
    "sqlite_drain": drain.run_sqlite,
    "bulk_enqueue": enqueue.run_bulk,
    "enqueue": enqueue.run,
    "single_enqueue": single.run,
    "latency": latency.run,
    "backlog": backlog.run,
    "idle": idle.run,
    "upgrade": upgrade.run,
}


def main() -> int:
    """Run the subjects named on the command line, or all; 1 means that a requirement was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "subjects", nargs="*", metavar="subject", help=f"one of {', '.join(SUBJECTS)}; default all"
    )
    wanted = parser.parse_args().subjects or list(SUBJECTS)
    if unknown := [subject for subject in wanted if subject not in SUBJECTS]:
        parser.error(f"unknown subject: {', '.join(unknown)}")
    with databases() as fresh:
        return asyncio.run(_run(wanted, fresh))


async def _run(subjects: list[str], fresh: Databases) -> int:
    report = Report()
    await report.versions(fresh)
    for subject in subjects:
        report.subject(subject)
        await SUBJECTS[subject](fresh, report)
    return report.verdict()


if __name__ == "__main__":
    raise SystemExit(main())
