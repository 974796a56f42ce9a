"""Runs each contestant in a fresh process on a fresh database, by turns."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
    async with _child(contestant, measure, url, options or {}) as process:
        return await _figures(process)


async def run_two(
    contestant: str, url: str, worker: Mapping[str, Any], producer: Mapping[str, Any]
) -> Figures:
    """Have a process that works, and then one that produces; return what the worker found."""
    async with _child(contestant, "work", url, worker) as working:
        assert working.stdout
        async for line in working.stdout:
            if line.decode().strip() == READY:
                await run(contestant, "produce", url, producer)
                break
        return await _figures(working)


@asynccontextmanager
async def _child(
    contestant: str, measure: str, url: str, options: Mapping[str, Any]
) -> AsyncIterator[Process]:
    """Yield a process that ends with the block, also where that is broken off."""
    arguments = contestant, measure, url, json.dumps(dict(options))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.queue.child", *arguments, stdout=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _figures(process: Process) -> Figures:
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"a contestant ended with status {process.returncode}")
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures
