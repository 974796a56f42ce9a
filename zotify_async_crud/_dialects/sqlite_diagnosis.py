"""What can be wrong with SQLite's library, or with a file of it."""

from __future__ import annotations

import functools
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncEngine

from zotify_async_crud._dialects.diagnosis import Check, Finding, failed, ok, version, warning

_OLDEST: Final = (3, 35)
"""The first that has RETURNING."""

_OTHERS: Final = 0o077
_IN_MEMORY: Final = "in memory"


def checks() -> Mapping[str, Check]:
    """Return the checks by their names."""
    return {
        "version": functools.partial(version, oldest=_OLDEST),
        "write-ahead log": _write_ahead_log,
        "foreign keys": _foreign_keys,
        "file mode": _file_mode,
        "writes": _writes,
        "integrity": _integrity,
    }


async def _write_ahead_log(engine: AsyncEngine) -> Finding:
    mode = await _scalar(engine, "PRAGMA journal_mode")
    if mode in {"wal", "memory"}:
        return ok("on" if mode == "wal" else _IN_MEMORY)
    return warning(
        f"off: readers and the writer wait for each other (journal_mode is {mode})",
        "put the file on a local disk, and make the engine with create_engine of this library",
    )


async def _foreign_keys(engine: AsyncEngine) -> Finding:
    if not await _scalar(engine, "PRAGMA foreign_keys"):
        return failed("not enforced", "make the engine with create_engine of this library")
    broken = await _scalar(engine, 'SELECT "table" FROM pragma_foreign_key_check LIMIT 1')
    if broken is None:
        return ok("enforced, and none is broken")
    return failed(
        f"a row of {broken} refers to one that is not there",
        "delete what PRAGMA foreign_key_check lists; other programs must enforce foreign keys, too",
    )


async def _file_mode(engine: AsyncEngine) -> Finding:
    path = await _file(engine)
    if not path or os.name != "posix":
        return ok("there is none")
    mode = _mode(path)
    if not mode & _OTHERS:
        return ok(f"{mode:04o}")
    return warning(f"{mode:04o}: others may open it", f"chmod 600 {shlex.quote(path)}")


def _mode(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


async def _writes(engine: AsyncEngine) -> Finding:
    path = await _file(engine)
    if not path:
        return ok(_IN_MEMORY)
    # the log stands beside the file, and is made and removed
    for needed in (Path(path), Path(path).parent):
        if not _is_writable(needed):
            return failed(f"this user may not write to {needed}", "run as its owner, or chown it")
    return ok("this user may write to the file and to its folder")


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


async def _file(engine: AsyncEngine) -> str:
    """Return the path of the database, which is empty if that is in memory."""
    # as a statement, and not as a table: that would read the file, which may be what is refused
    async with engine.connect() as connection:
        paths = (await connection.exec_driver_sql("PRAGMA database_list")).scalars(2)
        return str(paths.first())


async def _integrity(engine: AsyncEngine) -> Finding:
    problem = await _scalar(engine, "PRAGMA quick_check(1)")
    if problem == "ok":
        return ok("no damage found")
    return failed(f"the file is damaged: {problem}", "restore it from a backup")


async def _scalar(engine: AsyncEngine, statement: str) -> Any:
    async with engine.connect() as connection:
        return (await connection.exec_driver_sql(statement)).scalar()
