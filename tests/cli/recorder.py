"""Runs the demo within this process, and keeps what it reports."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from zotify_async_crud import demo
from zotify_async_crud.demo import Stage, Summary


class Recorder:
    """Keeps what the demo reports."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.shown: dict[Stage, list[tuple[int, int, int]]] = {}
        self.downloading = asyncio.Event()

    def say(self, line: str) -> None:
        """Keep a remark."""
        self.said.append(line)

    def show(self, stage: Stage, done: int, total: int, failed: int = 0) -> None:
        """Keep how far a stage is."""
        self.shown.setdefault(stage, []).append((done, total, failed))
        if stage is Stage.DOWNLOAD:
            self.downloading.set()

    def last(self, stage: Stage) -> tuple[int, int, int]:
        """Return what was shown last of a stage: done, total and failed."""
        return self.shown[stage][-1]


async def run_demo(
    export: Path, url: str, recorder: Recorder | None = None, *, processes: int = 1
) -> Summary:
    """Run the demo with three workers a process and the same chance each time."""
    return await demo.run(
        export,
        url,
        workers=3,
        processes=processes,
        chance=random.Random(7),
        reporter=recorder or Recorder(),
    )
