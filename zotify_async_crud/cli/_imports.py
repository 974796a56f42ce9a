"""The import of account-data exports."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from zotify_async_crud.cli._database import prepared, rehearsing
from zotify_async_crud.cli._options import HERE, AsJson, Target
from zotify_async_crud.cli._output import complain, reporter, say, show_facts, show_json
from zotify_async_crud.demo import Stage
from zotify_async_crud.importers import Problem
from zotify_async_crud.importing import ImportResult, import_exports

_PATHS: Final = Parameter(
    help="Account-data exports: their folders, or files of them, such as Playlist1.json. Give all"
    " files of one export together.",
    negative=(),
)
_SKIP_MALFORMED: Final = Parameter(
    help="Leave out entries that are not what Spotify ships, and name each on stderr. Without it,"
    " the first one ends the import before anything is written.",
    negative=(),
)
_DRY_RUN: Final = Parameter(help="Show what would change, and change nothing.", negative=())


async def run_import(
    paths: Annotated[list[Path], _PATHS],
    /,
    *,
    target: Target = HERE,
    skip_malformed: Annotated[bool, _SKIP_MALFORMED] = False,
    dry_run: Annotated[bool, _DRY_RUN] = False,
    json: AsJson = False,
) -> None:
    """Make the playlists in a database those of Spotify account-data exports.

    Only what differs is written; other playlists stay, and what is known of tracks is added. An
    import that was interrupted can be made again. A new database gets its tables.
    """
    with reporter(stderr=json) as progress:
        async with (rehearsing if dry_run else prepared)(target) as sessions:
            result = await import_exports(
                sessions,
                paths,
                on_problem=_leave_out if skip_malformed else None,
                on_progress=functools.partial(progress.show, Stage.IMPORT),
                dry_run=dry_run,
            )
    if json:
        show_json({"dry_run": dry_run, **dataclasses.asdict(result)})
        return
    show_facts(_changes(result))
    if dry_run:
        say("Dry run: nothing was written")


def _leave_out(problem: Problem) -> None:
    complain(f"left out: {problem}")


def _changes(result: ImportResult) -> Iterator[tuple[str, str]]:
    playlists = result.playlists
    yield "Playlists created", f"{playlists.playlists_created:,}"
    yield "Playlists updated", f"{playlists.playlists_updated:,}"
    yield "Playlists unchanged", f"{playlists.playlists_unchanged:,}"
    yield "Tracks new", f"{result.tracks_created:,}"
    yield "Entries added", f"{playlists.entries_added:,}"
    yield "Entries moved", f"{playlists.entries_moved:,}"
    yield "Entries removed", f"{playlists.entries_removed:,}"
    yield "Entries skipped (local files, episodes, ...)", f"{result.skipped:,}"
