"""Plain tables on standard output, and whether every required figure was reached."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from sqlalchemy import text

from benchmarks.databases import BOTH, POSTGRESQL, Databases
from benchmarks.figures import Ratio

_DURABILITY: Final = {
    POSTGRESQL: "SELECT 'fsync ' || current_setting('fsync') || ', synchronous_commit '"
    " || current_setting('synchronous_commit') || ', server ' || current_setting('server_version')",
    "SQLite": "SELECT 'synchronous ' || synchronous || ', journal ' || journal_mode"
    " FROM pragma_synchronous, pragma_journal_mode",
}


class Report:
    """Writes the figures as they come and remembers which requirements were missed."""

    def __init__(self) -> None:
        self._missed: list[str] = []
        self._required = 0

    async def versions(self, databases: Databases) -> None:
        """Tell what was measured on what."""
        drivers = ", ".join(
            f"{name} {version(name)}" for name in ("sqlalchemy", "asyncpg", "aiosqlite")
        )
        self.line(f"Python {platform.python_version()}, {drivers}, {os.cpu_count()} processors")
        for name in BOTH:
            async with databases.fresh(name) as database, database.engine.connect() as connection:
                durability = await connection.scalar(text(_DURABILITY[name]))
            library = f", library {sqlite3.sqlite_version}" if name != POSTGRESQL else ""
            self.line(f"{name}: {durability}{library}")

    def subject(self, name: str) -> None:
        """Begin a subject."""
        self.line(f"\n## {name}")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write a table; the first column is left-aligned, and the others are figures."""
        cells = [list(header), *([str(cell) for cell in row] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        self.line(f"\n{title}")
        for number, row in enumerate(cells):
            first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            self.line("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
            if number == 0:
                self.line("  ".join("-" * width for width in widths))

    def require(
        self,
        what: str,
        ratio: Ratio,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Compare the median of *ratio* with what is required of it."""
        bound = f"at least {at_least}" if at_least is not None else f"at most {at_most}"
        low_enough = at_most is None or ratio.median <= at_most
        high_enough = at_least is None or ratio.median >= at_least
        met = low_enough and high_enough
        self._required += 1
        if not met:
            self._missed.append(f"{what}: {ratio}, required {bound}")
        self.line(f"{'met   ' if met else 'MISSED'}  {what}: {ratio}, required {bound}")

    def verdict(self) -> int:
        """Write the requirements that were missed; return the exit status."""
        self.line(f"\n{self._required - len(self._missed)} of {self._required} requirements met")
        for missed in self._missed:
            self.line(f"MISSED  {missed}")
        return 1 if self._missed else 0

    def line(self, content: str) -> None:
        """Write a line at once: a long run shows where it stands."""
        sys.stdout.write(f"{content}\n")
        sys.stdout.flush()
