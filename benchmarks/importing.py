"""The memory that an import takes, with exports of up to a million entries."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.databases import BOTH, Databases
from benchmarks.figures import Ratio, timed
from benchmarks.memory import peak_memory
from benchmarks.report import Report
from zotify_async_crud import database
from zotify_async_crud.importing import import_exports
from zotify_async_crud.schemas import SyncResult

SIZES: Final = (100_000, 1_000_000)
LIST: Final = 10_000
"""Entries of one playlist, the most that Spotify allows."""

REQUIRED_PEAK: Final = 200
"""MiB that the process may hold, the interpreter included."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a process took to import an export into an empty database."""

    seconds: float
    peak: float
    """The most memory that the process ever held, in MiB."""


async def run(databases: Databases, report: Report) -> None:
    """Import an export of each size, each in a process of its own."""
    rows: list[list[object]] = []
    for name in BOTH:
        readings = {size: await _read(databases, name, size) for size in SIZES}
        for size, reading in readings.items():
            figures = f"{reading.peak:,.0f}", f"{size / reading.seconds:,.0f}"
            rows.append([name, f"{size:,}", *figures])
        peak = Ratio.of([readings[SIZES[-1]].peak], [REQUIRED_PEAK])
        what = f"{name}, memory of an import of {SIZES[-1]:,} entries to {REQUIRED_PEAK} MiB"
        report.require(what, peak, at_most=1)
    report.table(
        f"An export of tracks that are all new, in lists of {LIST:,}; the memory includes the"
        " interpreter",
        ["database", "entries", "peak MiB", "entries/s"],
        rows,
    )


async def _read(databases: Databases, name: str, size: int) -> Reading:
    with tempfile.TemporaryDirectory() as folder:
        _write_export(Path(folder, "Playlist1.json"), size)
        async with databases.fresh(name) as empty:
            return await _in_fresh_process(folder, empty.url, str(size))


def _write_export(path: Path, size: int) -> None:
    with path.open("w") as file:
        file.write('{"playlists": [')
        for first in range(0, size, LIST):
            items = [_item(number) for number in range(first, first + LIST)]
            file.write(", " if first else "")
            json.dump({"name": f"List {first}", "items": items}, file)
        file.write("]}")


def _item(number: int) -> dict[str, Any]:
    track = {
        "trackName": f"Song number {number}",
        "artistName": "Somebody",
        "albumName": f"Album number {number // 10}",
        "trackUri": f"spotify:track:{number:022d}",
    }
    return {"track": track, "episode": None, "localTrack": None, "addedDate": "2024-02-29"}


async def _in_fresh_process(*arguments: str) -> Reading:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the import ended with status {process.returncode}")
    return Reading(**json.loads(output))


async def _import(folder: str, url: str, size: int) -> dict[str, float]:
    """Import what is in *folder*, and check that it was all."""
    engine = database.create_engine(url)
    sessions = database.create_session_factory(engine)
    seconds, result = await timed(import_exports(sessions, [Path(folder)]))
    await engine.dispose()
    assert result.playlists == SyncResult(
        playlists_created=size // LIST, tracks_created=size, entries_added=size
    )
    return {"seconds": seconds, "peak": peak_memory()}


if __name__ == "__main__":
    _folder, _url, _size = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(_import(_folder, _url, int(_size)))))
