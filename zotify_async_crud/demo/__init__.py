"""The main job of the Zotify API from end to end: real input, and a stand-in for the download.

This is what is done; how it looks is the affair of whoever passes the ``Reporter``.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from zotify_async_crud._tasks import first_failure
from zotify_async_crud._transactions import Sessions
from zotify_async_crud.demo import _steps
from zotify_async_crud.demo._database import Access, connected
from zotify_async_crud.demo._downloads import Worker, work_off
from zotify_async_crud.demo._processes import Processes
from zotify_async_crud.demo._reports import Downloads, Jobs, Reporter, Stage, Summary
from zotify_async_crud.demo._token import check_nobody_is_logged_in, keep_fresh
from zotify_async_crud.encryption import TokenKeyring, generate_key
from zotify_async_crud.importers import Export, read_export

__all__ = ["SAMPLE_EXPORT", "Downloads", "Jobs", "Reporter", "Stage", "Summary", "run"]

SAMPLE_EXPORT: Final = Path(__file__).parent.parent / "sample_export"
"""An export of nobody's account, which ships with the package."""

_ENQUEUED_AT_ONCE: Final = 100
"""Tracks in one transaction: few commits, and yet no long wait for whoever else wants to write."""


async def run(  # noqa: PLR0913 - what is asked for on the command line
    export: Path,
    database_url: str,
    *,
    workers: int,
    processes: int = 1,
    token_keyring: TokenKeyring | None = None,
    chance: random.Random,
    reporter: Reporter,
) -> Summary:
    """Sync the playlists in *export*, download each track once, and say what came of it.

    Each of the *processes* does so many downloads at once as there are *workers*; if it is one, it
    is this one. Several runs may use a database at a time, and each ends when no job is left,
    whoever did it. The token is encrypted by *token_keyring*, or else by a key of this
    run alone. *chance* decides how long a stand-in download takes and whether it fails.

    Raises:
        ZotifyCrudError: The export or the database is at fault. What was committed until then
            stays, and another run goes on from there.
    """
    content = read_export(export)
    keys = token_keyring or TokenKeyring(generate_key())
    async with connected(database_url, keys, shared=processes > 1) as access:
        await check_nobody_is_logged_in(access.sessions)
        await _prepare(access.sessions, content, reporter)
        crew = list(_crew(database_url, workers, processes, chance))
        before = await _steps.count_jobs(access.sessions)
        refreshes = await _download(access, crew, before, reporter)
        after = await _steps.count_jobs(access.sessions)
        playlists, tracks = await _steps.count_music(access.sessions)
        return Summary(
            playlists=playlists,
            tracks=tracks,
            jobs=after,
            downloads=await _steps.count_downloads(
                access.sessions, [worker.worker_id for worker in crew]
            ),
            failed_attempts=after.failed_attempts - before.failed_attempts,
            token_refreshes=refreshes,
            skipped=content.skipped,
            database=access.location,
        )


async def _prepare(sessions: Sessions, content: Export, reporter: Reporter) -> None:
    for done, playlist in enumerate(content.playlists, 1):
        await _steps.sync_playlist(sessions, playlist)
        reporter.show(Stage.SYNC, done, len(content.playlists))
    known = await _steps.tracks_with_a_job(sessions)
    new = [track_id for track_id in content.track_ids if track_id not in known]
    for start in range(0, len(new), _ENQUEUED_AT_ONCE):
        chunk = new[start : start + _ENQUEUED_AT_ONCE]
        await _steps.enqueue(sessions, chunk, content.track_names)
        reporter.show(Stage.ENQUEUE, start + len(chunk), len(new))


def _crew(
    database_url: str, workers: int, processes: int, chance: random.Random
) -> Iterator[Worker]:
    run_id = uuid.uuid4().hex[:12]
    for number in range(1, processes + 1):
        yield Worker(f"demo-{run_id}-{number}", database_url, workers, chance.getrandbits(64))


async def _download(
    access: Access, crew: Sequence[Worker], before: Jobs, reporter: Reporter
) -> int:
    """Let *crew* work until no job is left; return how often the token was refreshed meanwhile."""
    if before.foreign:
        reporter.say(f"Jobs in progress without a lease, left to others: {before.foreign}")
    if not before.left:
        reporter.say("Nothing is left to download")
        return 0
    if await _steps.is_paused(access.sessions):
        reporter.say("The queue is paused: downloads wait until it is resumed")
    team = crew[0].pool(access.sessions) if len(crew) == 1 else Processes(crew, reporter.say)
    with first_failure():
        async with asyncio.TaskGroup() as group:
            working = group.create_task(team.run())
            refreshing = group.create_task(keep_fresh(access.sessions, working))
            await work_off(access, working, before, reporter)
            await team.stop()
    return refreshing.result()
