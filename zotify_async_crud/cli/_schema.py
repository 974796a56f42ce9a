"""The commands about the tables: made, upgraded, and taken over."""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import Parameter

from zotify_async_crud import migrations
from zotify_async_crud.cli._database import opened
from zotify_async_crud.cli._options import HERE, AsJson, Target, Yes
from zotify_async_crud.cli._output import confirm, say, show_json

_TO: Final = Parameter(
    help="The revision to stop at. One that is older than that of the tables takes them back to it,"
    " and base drops them; what only newer tables have room for is lost.",
)


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
