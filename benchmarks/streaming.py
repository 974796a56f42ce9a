"""The memory of a stream and the time of a page, with up to a million jobs."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from benchmarks.databases import BOTH, Database, Databases
from benchmarks.figures import Ratio, timed
from benchmarks.memory import peak_memory
from benchmarks.report import Report
from zotify_async_crud import crud, database
from zotify_async_crud.crud._pages import encode_key
from zotify_async_crud.models import DownloadJob
from zotify_async_crud.schemas import DownloadJobStatus

SIZES: Final = (10_000, 100_000, 1_000_000)
ROUNDS: Final = {10_000: 3, 100_000: 3, 1_000_000: 1}
LISTED_SIZE: Final = 100_000
"""The jobs among which the ways that need more memory are compared with the stream."""

REQUIRED_GROWTH: Final = 1.10
"""A stream over a hundred times the jobs may reach so many times the memory: allocators vary."""
REQUIRED_PAGE: Final = 2.0

PAGE: Final = 100
PAGE_ROUNDS: Final = 7
READS: Final = 8
"""Reads of each page in a round, by turns."""
FAILED_EVERY: Final = 20_000


@dataclass(frozen=True, slots=True)
class Reading:
    """What a process that read every job found, and what it took."""

    jobs: int
    checksum: int
    seconds: float
    peak: float
    """The most memory that the process ever held, in MiB."""


async def run(databases: Databases, report: Report) -> None:
    """Fill the table step by step; stream it at each size, and page through the largest."""
    memory: list[list[object]] = []
    pages: list[list[object]] = []
    for name in BOTH:
        async with databases.fresh(name) as filled:
            await filled.keep_statistics_away()
            memory += await _memory(filled, report)
            pages += await _pages(filled, report)
    report.table(
        "Every job read in a process of its own; the memory includes the interpreter",
        ["database, way", "jobs", "peak MiB", "jobs/s", "rounds", "peak ratio", "to"],
        memory,
    )
    report.table(
        f"A page of {PAGE} among {max(SIZES):,} jobs, one in {FAILED_EVERY:,} failed, without"
        f" statistics; {PAGE_ROUNDS} rounds of {READS} reads",
        ["database, page", "median ms", "max ms", "ratio to the first (min-max)"],
        pages,
    )


async def _memory(filled: Database, report: Report) -> list[list[object]]:
    """Read every job at each size; compare with the smallest, and other ways with the stream."""
    rows: list[list[object]] = []
    streamed: dict[int, list[float]] = {}
    for before, size in zip((0, *SIZES), SIZES, strict=False):
        await filled.add_jobs(before + 1, size, every=FAILED_EVERY)
        readings = await _read_by_turns(filled, size)
        for way, found in readings.items():
            peaks = [reading.peak for reading in found]
            streamed.setdefault(size, peaks)  # the stream comes first
            to = SIZES[0] if way == "stream" else size
            rate = median(reading.jobs / reading.seconds for reading in found)
            figures = f"{median(peaks):,.0f}", f"{rate:,.0f}", len(peaks)
            ratio = Ratio.of(peaks, streamed[to])
            rows.append([f"{filled.name}, {way}", f"{size:,}", *figures, ratio, f"stream {to:,}"])
    growth = Ratio.of(streamed[SIZES[-1]], streamed[SIZES[0]])
    what = f"{filled.name}, memory of a stream over {SIZES[-1]:,} jobs to {SIZES[0]:,}"
    report.require(what, growth, at_most=REQUIRED_GROWTH)
    return rows


async def _read_by_turns(filled: Database, size: int) -> dict[str, list[Reading]]:
    """Read in one fresh process after another, each way in turn; check what each has read."""
    ways = list(WAYS) if size == LISTED_SIZE else ["stream"]
    readings: dict[str, list[Reading]] = {way: [] for way in ways}
    for _ in range(ROUNDS[size]):
        for way in ways:
            reading = await _in_fresh_process(way, filled.url)
            if (reading.jobs, reading.checksum) != (size, size * (size + 1) // 2):
                raise AssertionError(f"{way} did not read every job once, newest first")
            readings[way].append(reading)
    return readings


async def _in_fresh_process(way: str, url: str) -> Reading:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, way, url, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{way} ended with status {process.returncode}")
    return Reading(**json.loads(output))


async def _stream(db: AsyncSession) -> AsyncIterator[DownloadJob]:
    async for job in crud.stream_download_jobs(db):
        yield job


async def _cursor(db: AsyncSession) -> AsyncIterator[DownloadJob]:
    """Read by a cursor that stays open, as SQLAlchemy streams."""
    order = DownloadJob.created_at.desc(), DownloadJob.job_id.desc()
    statement = select(DownloadJob).order_by(*order).execution_options(yield_per=500)
    async for job in await db.stream_scalars(statement):
        yield job


async def _all(db: AsyncSession) -> AsyncIterator[DownloadJob]:
    for job in await crud.get_all_download_jobs(db):
        yield job


WAYS: Final[dict[str, Callable[[AsyncSession], AsyncIterator[DownloadJob]]]] = {
    "stream": _stream,
    "open cursor": _cursor,
    "get_all": _all,
}


async def _read(way: str, url: str) -> dict[str, float]:
    """Read every job, and add up their numbers as long as each is below the one before."""
    engine = database.create_engine(url)
    jobs = checksum = 0
    before = sys.maxsize
    started = time.perf_counter()
    async with database.create_session_factory(engine).begin() as db:
        async for job in WAYS[way](db):
            number = int(job.job_id[-12:])
            jobs, checksum, before = jobs + 1, checksum + number * (number < before), number
    seconds = time.perf_counter() - started
    await engine.dispose()
    return {"jobs": jobs, "checksum": checksum, "seconds": seconds, "peak": peak_memory()}


async def _pages(filled: Database, report: Report) -> list[list[object]]:
    """Time pages by turns: the first, one in the middle and the last, and those with a status."""
    reads = await _reads(filled, max(SIZES))
    rounds = [await _read_pages(filled, reads) for _ in range(-1, PAGE_ROUNDS)][1:]  # one warms up
    rows: list[list[object]] = []
    for page in reads:
        medians, first = ([median(seconds[name]) for seconds in rounds] for name in (page, "first"))
        longest = max(max(seconds[page]) for seconds in rounds)
        ratio = Ratio.of(medians, first)
        shown = f"{median(medians) * 1e3:,.2f}", f"{longest * 1e3:,.2f}"
        rows.append([f"{filled.name}, {page}", *shown, ratio])
        if page in {"middle", "last", "failed"}:
            report.require(f"{filled.name}, page {page} to first", ratio, at_most=REQUIRED_PAGE)
    return rows


async def _read_pages(
    filled: Database, reads: dict[str, tuple[list[int], Read]]
) -> dict[str, list[float]]:
    """Read each page by turns and check its jobs; return the seconds of each read."""
    seconds: dict[str, list[float]] = {page: [] for page in reads}
    async with filled.sessions.begin() as db:
        for _ in range(READS):
            for page, (expected, read) in reads.items():
                took, jobs = await timed(read(db))
                if [int(job.job_id[-12:]) for job in jobs] != expected:
                    raise AssertionError(f"{page}: these are not the jobs of that page")
                seconds[page].append(took)
    return seconds


Read = Callable[[AsyncSession], Awaitable[list[DownloadJob]]]


async def _reads(filled: Database, total: int) -> dict[str, tuple[list[int], Read]]:
    """Return for each page the numbers of its jobs, and how to read it."""
    middle, last = total // 2, PAGE
    failed = list(range(total - total % FAILED_EVERY, 0, -FAILED_EVERY))
    completed = [number for number in range(middle, 0, -1) if number % FAILED_EVERY][:PAGE]
    keys = {start: await _key_above(filled, start) for start in (middle, last)}
    return {
        "first": (_down_from(total), _page(None)),
        "middle": (_down_from(middle), _page(keys[middle])),
        "last": (_down_from(last), _page(keys[last])),
        "failed": (failed[:PAGE], _page(None, DownloadJobStatus.FAILED)),
        "completed, middle": (completed, _page(keys[middle], DownloadJobStatus.COMPLETED)),
        "middle by OFFSET": (_down_from(middle), _by_offset(total - middle)),
    }


def _down_from(number: int) -> list[int]:
    return list(range(number, number - PAGE, -1))


async def _key_above(filled: Database, number: int) -> str:
    """Return where the page begins whose first job has this number."""
    async with filled.sessions() as db:
        above = await db.get_one(DownloadJob, f"00000000-0000-7000-8000-{number + 1:012d}")
        return encode_key(above.created_at, above.job_id)


def _page(after: str | None, status: DownloadJobStatus | None = None) -> Read:
    async def read(db: AsyncSession) -> list[DownloadJob]:
        return (await crud.list_download_jobs(db, status=status, limit=PAGE, after=after)).items

    return read


def _by_offset(offset: int) -> Read:
    order = DownloadJob.created_at.desc(), DownloadJob.job_id.desc()

    async def read(db: AsyncSession) -> list[DownloadJob]:
        statement = select(DownloadJob).order_by(*order).limit(PAGE).offset(offset)
        return list(await db.scalars(statement))

    return read


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_read(*sys.argv[1:3]))))
