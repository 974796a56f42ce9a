"""Runs each contestant in a fresh process on a fresh database, by turns."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.databases import POSTGRESQL, Databases
from benchmarks.queue.measures import READY, Figures

ROUNDS: Final = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """A contestant with the options of a measure, on a database of a kind."""

    contestant: str
    options: Mapping[str, Any] = field(default_factory=dict)
    database: str = POSTGRESQL


async def by_turns(
    databases: Databases, measure: str, entries: Mapping[str, Entry], rounds: int = ROUNDS
) -> dict[str, list[Figures]]:
    """Measure each entry once a round; each round begins with another."""
    found: dict[str, list[Figures]] = {name: [] for name in entries}
    names = list(entries)
    for number in range(rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            entry = entries[name]
            async with databases.fresh(entry.database) as database:
                found[name].append(
                    await run(entry.contestant, measure, database.url, entry.options)
                )
    return found


async def run(
    contestant: str, measure: str, url: str, options: Mapping[str, Any] | None = None
) -> Figures:
    """Measure in a fresh process."""
    return await _figures(await _start(contestant, measure, url, options or {}))


async def run_two(
    contestant: str, url: str, worker: Mapping[str, Any], producer: Mapping[str, Any]
) -> Figures:
    """Have a process that works, and then one that produces; return what the worker found."""
    working = await _start(contestant, "work", url, worker)
    assert working.stdout
    async for line in working.stdout:
        if line.decode().strip() == READY:
            await run(contestant, "produce", url, producer)
            break
    return await _figures(working)


async def _start(contestant: str, measure: str, url: str, options: Mapping[str, Any]) -> Process:
    arguments = contestant, measure, url, json.dumps(dict(options))
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.queue.child", *arguments, stdout=PIPE
    )


async def _figures(process: Process) -> Figures:
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"a contestant ended with status {process.returncode}")
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures
