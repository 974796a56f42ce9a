"""The demo, and how a run of it looks."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from zotify_async_crud import demo
from zotify_async_crud.cli._database import is_made
from zotify_async_crud.cli._keys import keyring
from zotify_async_crud.cli._options import AsJson, Target, whole
from zotify_async_crud.cli._output import complain, reporter, say, show_facts, show_json
from zotify_async_crud.demo import Summary

_EXPORT: Final = Parameter(
    help="A Spotify account-data export: its folder, or one file of it, such as Playlist1.json or"
    " YourLibrary.json. Without it, a sample of an invented account.",
    show_default=False,
)
_DATABASE_URL: Final = Parameter(
    help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE, of no use to anybody else:"
    " what is in its queue counts as downloaded. The environment names none for this.",
)
_WORKERS: Final = Parameter(
    help="How many downloads each process does at once.",
    converter=whole,
    validator=Number(gte=1, lte=100),
)
_PROCESSES: Final = Parameter(
    help="How many processes share the queue: this one alone, or so many that it starts.",
    converter=whole,
    validator=Number(gte=1, lte=32),
)


async def run_demo(
    *,
    export: Annotated[Path, _EXPORT] = demo.SAMPLE_EXPORT,
    database_url: Annotated[str, _DATABASE_URL] = "sqlite:///zotify-demo.db",
    workers: Annotated[int, _WORKERS] = 8,
    processes: Annotated[int, _PROCESSES] = 1,
    json: AsJson = False,
) -> int:
    """Sync the playlists of a Spotify export and work off a queue of its tracks.

    Nothing is downloaded: a stand-in takes some milliseconds, and fails now and then to be retried.
    A run that was killed goes on where it stopped when it is started again. Several may work on one
    database at a time; each ends when no job is left, also of those that others hold.
    """
    await is_made(Target(database_url))
    chance = random.Random()
    with reporter(stderr=json) as progress:
        summary = await demo.run(
            export,
            database_url,
            workers=workers,
            processes=processes,
            token_keyring=keyring(),
            chance=chance,
            reporter=progress,
        )
    if json:
        show_json(dataclasses.asdict(summary))
    else:
        show_facts(_rows(summary))
        say(f"Database: {summary.database}")
    if left := summary.jobs.left:
        complain(f"jobs that are not completed: {left}; run it again to go on")
        return 1
    return 0


def _rows(summary: Summary) -> Iterator[tuple[str, str]]:
    downloads = summary.downloads
    yield "Playlists", f"{summary.playlists:,}"
    yield "Tracks", f"{summary.tracks:,}"
    for status, jobs in summary.jobs.by_status.items():
        yield f"Jobs {status.replace('_', ' ')}", f"{jobs:,}"
    yield "Attempts that failed and were retried", f"{summary.failed_attempts:,}"
    yield "Entries skipped (local files, episodes, ...)", f"{summary.skipped:,}"
    yield "Token refreshes", f"{summary.token_refreshes:,}"
    if downloads.completed:
        yield "Downloads in this run", f"{downloads.completed:,} in {downloads.seconds:.1f} s"
        yield "Rate", f"{downloads.rate:,.0f} jobs/s"
        if len(downloads.by_worker) > 1:
            for number, completed in enumerate(downloads.by_worker, 1):
                yield f"Downloads of process {number}", f"{completed:,}"
