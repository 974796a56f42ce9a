"""The commands about the tables: made, upgraded, taken back, and taken over."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Annotated, Final

from cyclopts import Parameter
from sqlalchemy.ext.asyncio import AsyncEngine

from zotify_async_crud import adoption, migrations
from zotify_async_crud.adoption import AdoptionReport
from zotify_async_crud.cli._database import existing, opened, revision_in
from zotify_async_crud.cli._input import confirm
from zotify_async_crud.cli._keys import KEYS, keyring
from zotify_async_crud.cli._options import HERE, AsJson, Target, Yes
from zotify_async_crud.cli._output import PROGRAM, complain, say, show_facts, show_json
from zotify_async_crud.encryption import TokenInClear
from zotify_async_crud.migrations._revisions import check_revision

_TO: Final = Parameter(
    help="The revision to stop at. One that is older than that of the tables takes them back to it,"
    " and base drops them; what only newer tables have room for is lost.",
)
_QUESTION: Final = "Put this library's tables in the place of the original's, for good?"
_DRY_RUN: Final = Parameter(help="Show what would change, and change nothing.", negative=())


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
    check_revision(to, "base", "head")
    async with opened(target) as engine:
        before = await revision_in(engine)
        after = await _moved(engine, before, to, yes=yes)
    if json:
        show_json({"before": before, "after": after})
    else:
        done = "are" if before == after else "are now"
        nothing = "There are no tables of this library"
        say(f"The tables {done} at revision {after}" if after else nothing)


async def _moved(engine: AsyncEngine, before: str | None, to: str, *, yes: bool) -> str | None:
    after = before
    if to != "base":
        await migrations.upgrade(engine, to)  # it leaves alone what is newer
        after = await migrations.current_revision(engine)
    if after is None or to in {after, "head"}:
        return after
    await confirm(f"Take the tables from revision {after} back to {to}?", yes=yes)
    await migrations.downgrade(engine, to)
    return await migrations.current_revision(engine)


async def adopt(
    *,
    target: Target = HERE,
    dry_run: Annotated[bool, _DRY_RUN] = False,
    yes: Yes = False,
    json: AsJson = False,
) -> None:
    """Take over a database that the original Zotify API made, with all that it holds.

    Stop the original service before. Either all of it is done or nothing, and a token is encrypted
    by the first of the keys that the environment names.
    """
    keys = keyring()
    async with existing(target, token_keyring=keys) as engine:
        await confirm(_QUESTION, yes=yes or dry_run)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TokenInClear)  # it is told below, in other words
            report = await adoption.adopt(engine, dry_run=dry_run)
    if report.token and keys is None:
        complain(f"the token is kept in clear: set {KEYS}, and run `{PROGRAM} token rotate-keys`")
    if json:
        show_json({"dry_run": dry_run, **dataclasses.asdict(report)})
    else:
        _tell(report, dry_run=dry_run)


def _tell(report: AdoptionReport, *, dry_run: bool) -> None:
    if report.nothing_to_do:
        say("The tables are this library's already")
        return
    show_facts(_facts(report))
    for note in report.notes:
        say(f"Note: {note}")
    if dry_run:
        say("Dry run: nothing was written")


def _facts(report: AdoptionReport) -> Iterator[tuple[str, str]]:
    for status, jobs in report.jobs.items():
        yield f"Jobs {status.replace('_', ' ')}", f"{jobs:,}"
    yield "Jobs that were in progress, and are pending again", f"{report.requeued:,}"
    yield "Tracks", f"{report.tracks:,}"
    yield "Playlists", f"{report.playlists:,}"
    yield "Entries of playlists", f"{report.entries:,}"
    yield "Token", "yes" if report.token else "no"
    yield "Tokens left out", f"{report.left_out_tokens:,}"
