"""What each revision makes of the schema, as it was when the revision was written.

Revisions share helpers with the models, and a change there must not change what an old revision
does. ``python -m tests.migrations.recorded`` writes what is missing, to be reviewed.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Final

from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support import postgresql
from tests.support.schema import Description, description_of
from zotify_async_crud import database, migrations
from zotify_async_crud.migrations._revisions import all_revisions

_FOLDER: Final = Path(__file__).parent / "revisions"


def recorded(engine: AsyncEngine, revision: str) -> str:
    """Return what was recorded of *revision*."""
    return _path(engine, revision).read_text()


def written(description: Description) -> str:
    """Return *description* as it is recorded."""
    lines = (
        f"{table}\n" + "".join(f"    {line}\n" for line in found)
        for table, found in description.items()
    )
    return "\n".join(lines)


def _path(engine: AsyncEngine, revision: str) -> Path:
    return _FOLDER / f"{revision}.{engine.dialect.name}.txt"


async def _record(url: str) -> None:
    engine = database.create_engine(url)
    for revision in all_revisions():
        await migrations.upgrade(engine, revision)
        path = _path(engine, revision)
        if not path.exists():
            path.write_text(written(await description_of(engine)))
    await engine.dispose()


def _main() -> None:
    with postgresql.server() as url, tempfile.TemporaryDirectory() as folder:
        for each in (url, f"sqlite:///{folder}/zotify.db"):
            asyncio.run(_record(each))


if __name__ == "__main__":
    _main()
