"""The commands about the tables: made, upgraded, and taken over."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Annotated, Final

from cyclopts import Parameter
from rich.console import Console

from zotify_async_crud import adoption, migrations
from zotify_async_crud.cli._database import existing, opened
from zotify_async_crud.cli._keys import keyring
from zotify_async_crud.cli._options import HERE, AsJson, Target, Yes
from zotify_async_crud.cli._output import complain, confirm, say, show_facts, show_json

_TO: Final = Parameter(
    help="The revision to stop at. One that is older than that of the tables takes them back to it,"
    " and base drops them; what only newer tables have room for is lost.",
)

_DRY_RUN: Final = Parameter(help="Show what would be taken over, and write nothing.", negative=())


async def migrate(
    *,
    target: Target = HERE,
    to: Annotated[str, _TO] = "head",
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Make the tables of a new database, or bring those of an older version up to date.

    Workers may go on meanwhile, and several processes may do so at once.
    """
    async with opened(target) as engine:
        before = await migrations.current_revision(engine)
        if to == "head" or (before or "") <= to != "base":
            await migrations.upgrade(engine, to)
        elif before is not None:
            confirm(f"Take the tables from revision {before} back to {to}?", yes=yes)
            await migrations.downgrade(engine, to)
        after = await migrations.current_revision(engine)
    if json:
        show_json({"before": before, "after": after})
    elif before == after:
        say(
            f"The tables are at revision {after}: nothing to do" if after else "There are no tables"
        )
    else:
        say(f"The tables are now at revision {after}" if after else "The tables are gone")


async def adopt(
    *,
    target: Target = HERE,
    dry_run: Annotated[bool, _DRY_RUN] = False,
    json: AsJson = False,
) -> None:
    """Take over a database that the original Zotify API made, with all that it holds.

    Stop that service and back the database up before. Jobs that were in progress are pending again;
    tables of others stay as they are. What was mended is told on stderr, a line each.
    """
    async with existing(target, token_keyring=keyring()) as engine:
        report = await adoption.adopt(engine, dry_run=dry_run)
    if json:
        show_json({"dry_run": dry_run, **dataclasses.asdict(report)})
        return
    for note in report.notes:
        complain(note)
    if report.nothing_to_do:
        say("The tables are this library's already: nothing to do")
        return
    show_facts(_taken_over(report), Console())
    if dry_run:
        say("Dry run: nothing was written")


def _taken_over(report: adoption.AdoptionReport) -> Iterator[tuple[str, str]]:
    for status, jobs in report.jobs.items():
        yield f"Jobs {status.replace('_', ' ')}", f"{jobs:,}"
    yield "Of them in progress before", f"{report.requeued:,}"
    yield "Tracks", f"{report.tracks:,}"
    yield "Playlists", f"{report.playlists:,}"
    yield "Entries", f"{report.entries:,}"
    yield "Token", "yes" if report.token else "no"
    yield "Tokens left out", f"{report.left_out_tokens:,}"
