"""Time on the wall, and on the processors by this process and by the database's server."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

Process: TypeAlias = tuple[int, list[str]]
"""The parent of a process, and what its ``stat`` says from the third field on."""

_USER, _SYSTEM, _WAITED_USER, _WAITED_SYSTEM = 11, 12, 13, 14
_TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds between two moments."""

    wall: float
    client: float
    server: float | None
    """None where nothing tells: the server runs elsewhere, or is part of this process."""


class Meter:
    """Measures from when it was made; *backend* is any process of the server, if it has some."""

    def __init__(self, backend: int | None) -> None:
        known = None if backend is None else _stat(backend)
        self._postmaster = known and known[0]
        self._server = self._of_server()
        self._client, self._wall = time.process_time(), time.perf_counter()

    def read(self) -> Used:
        """Return what was used since."""
        wall = time.perf_counter() - self._wall
        client, server = time.process_time() - self._client, self._of_server()
        known = server is not None and self._server is not None
        return Used(wall, client, server - self._server if known else None)  # type: ignore[operator]

    def _of_server(self) -> float | None:
        """Return the seconds of the postmaster, of its children, and of those that have ended."""
        if self._postmaster is None or (postmaster := _stat(self._postmaster)) is None:
            return None
        ticks = sum(int(postmaster[1][field]) for field in (_WAITED_USER, _WAITED_SYSTEM))
        running = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal())
        for process in running:
            found = _stat(process)
            if found and self._postmaster in {found[0], process}:
                ticks += sum(int(found[1][field]) for field in (_USER, _SYSTEM))
        return ticks / _TICKS


def _stat(process: int) -> Process | None:
    try:
        content = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # it has ended, or this system has no such file
        return None
    fields = content.rpartition(")")[2].split()  # the name before may hold anything
    return int(fields[1]), fields
