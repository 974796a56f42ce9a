"""The main job of the Zotify API from end to end: real input, and a stand-in for the download.

This is what is done; how it looks is the affair of whoever passes the ``Reporter``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from zotify_async_crud import database
from zotify_async_crud.demo import _downloads, _steps
from zotify_async_crud.demo._reports import Downloads, Reporter, Stage, Summary, Totals
from zotify_async_crud.demo._token import keep_fresh
from zotify_async_crud.demo._transactions import Sessions
from zotify_async_crud.importers import Export, read_export

__all__ = ["SAMPLE_EXPORT", "Downloads", "Reporter", "Stage", "Summary", "Totals", "run"]

SAMPLE_EXPORT: Final = Path(__file__).parent.parent / "sample_export"
"""An export of nobody's account, which ships with the package."""

_ENQUEUED_AT_ONCE: Final = 100
"""Tracks in one transaction: few commits, and yet no long wait for whoever else wants to write."""


async def run(
    export: Path, database_url: str, *, workers: int, chance: random.Random, reporter: Reporter
) -> Summary:
    """Sync the playlists in *export*, download each track once, and say what came of it.

    One run at a time may use a database: jobs in progress when it begins count as abandoned.
    *chance* decides how long a stand-in download takes and whether it fails.

    Raises:
        ZotifyCrudError: The export or the database is at fault. What was committed until then
            stays, and another run goes on from there.
    """
    content = read_export(export)
    engine = database.create_engine(database_url)
    try:
        await database.create_schema(engine)
        sessions = database.create_session_factory(engine)
        await _prepare(sessions, content, reporter)
        started = time.perf_counter()
        downloads, refreshes = await _download(sessions, workers, chance, reporter)
        return Summary(
            totals=await _steps.count(sessions),
            downloads=downloads,
            token_refreshes=refreshes,
            skipped=content.skipped,
            seconds=time.perf_counter() - started,
            database=_steps.location(engine.url),
        )
    finally:
        await engine.dispose()


async def _prepare(sessions: Sessions, content: Export, reporter: Reporter) -> None:
    if abandoned := await _steps.give_back_abandoned_jobs(sessions):
        reporter.say(f"Jobs left in progress by an earlier run, given back: {abandoned}")
    reporter.begin(Stage.SYNC, len(content.playlists))
    for playlist in content.playlists:
        await _steps.sync_playlist(sessions, playlist)
        reporter.advance(Stage.SYNC)
    known = await _steps.tracks_with_a_job(sessions)
    new = [track_id for track_id in content.track_ids if track_id not in known]
    reporter.begin(Stage.ENQUEUE, len(new))
    for track_ids in _chunks(new):
        await _steps.enqueue(sessions, track_ids, content.track_names)
        reporter.advance(Stage.ENQUEUE, len(track_ids))


async def _download(
    sessions: Sessions, workers: int, chance: random.Random, reporter: Reporter
) -> tuple[Downloads, int]:
    unfinished = (await _steps.count(sessions)).unfinished_jobs
    if not unfinished:
        reporter.say("Nothing is left to download: every job is completed")
    reporter.begin(Stage.DOWNLOAD, unfinished)
    handler = _downloads.stand_in_handler(chance)
    work = _downloads.download_all(sessions, handler, workers, reporter)
    with _downloads.first_failure():
        async with asyncio.TaskGroup() as group:
            downloading = group.create_task(work)
            refreshing = group.create_task(keep_fresh(sessions, downloading))
    return downloading.result(), refreshing.result()


def _chunks(track_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(track_ids), _ENQUEUED_AT_ONCE):
        yield track_ids[start : start + _ENQUEUED_AT_ONCE]
