"""The commands about the queue as a whole."""

from __future__ import annotations

from collections.abc import Iterator

from cyclopts import App

from zotify_async_crud import crud
from zotify_async_crud.cli._database import reading, writing
from zotify_async_crud.cli._options import HERE, AsJson, Target
from zotify_async_crud.cli._output import say, show_facts, show_json
from zotify_async_crud.schemas import DownloadQueueStats

app = App(name="queue", help="The queue as a whole: pause and resume it.")


async def stats(*, target: Target = HERE, json: AsJson = False) -> None:
    """Show how long the queue is, and how fast it moves."""
    async with reading(target) as db:
        found = await crud.get_download_queue_stats(db)
    if json:
        show_json(found)
    else:
        show_facts(_facts(found))


def _facts(found: DownloadQueueStats) -> Iterator[tuple[str, str]]:
    yield "Pending", f"{found.pending:,}"
    yield "Scheduled for later", f"{found.scheduled:,}"
    yield "In progress", f"{found.in_progress:,}"
    yield "Failed", f"{found.failed:,}"
    yield "Completed in the last minute", f"{found.completed_last_minute:,}"
    if found.oldest_pending_age is not None:
        yield "The oldest waits for", f"{found.oldest_pending_age.total_seconds():,.0f} s"
    yield "Paused", "yes" if found.paused else "no"


@app.command
async def pause(*, target: Target = HERE, json: AsJson = False) -> None:
    """Hand out no jobs until it is resumed; those that run go on."""
    async with writing(target) as db:
        await crud.pause_download_queue(db)
    _tell(paused=True, json=json)


@app.command
async def resume(*, target: Target = HERE, json: AsJson = False) -> None:
    """Hand out jobs again."""
    async with writing(target) as db:
        await crud.resume_download_queue(db)
    _tell(paused=False, json=json)


def _tell(*, paused: bool, json: bool) -> None:
    if json:
        show_json({"paused": paused})
    else:
        say("The queue is paused" if paused else "The queue hands out jobs")
