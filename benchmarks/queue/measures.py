"""What a fresh process measures of one contestant; each returns figures for the parent."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final, TypeAlias

from benchmarks.queue.contestants import Contestant
from benchmarks.queue.meter import Used
from benchmarks.queue.statements import counting_statements, traced_sqlite
from benchmarks.queue.watch import OWN_TRANSACTIONS, watching

Figures: TypeAlias = dict[str, Any]

CONNECTIONS: Final = 10
"""What a worker may have, whoever it is; the peers' own defaults are 4 to 10."""
WARM_UP: Final = 100
"""Jobs that are enqueued before the clock starts, so that connections and plans are there."""
READY: Final = "ready"
_LISTENING: Final = 1.5
"""Seconds after which a worker that has started listens and has nothing left to do."""


class Ledger:
    """Counts what the handler is given; each job must come once."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._seen: dict[str, float] = {}
        self._complete = asyncio.Event()

    async def handle(self, payload: str) -> None:
        """Do nothing with a job but note when it came."""
        if payload in self._seen:
            raise AssertionError(f"{payload} was handled twice")
        self._seen[payload] = time.monotonic()
        if len(self._seen) == self._expected:
            self._complete.set()

    async def complete(self) -> dict[str, float]:
        """Wait for the last job; return when each came."""
        await self._complete.wait()
        return self._seen


async def drain(
    queue: Contestant, url: str, jobs: int, concurrency: int, *, analyze: bool = True
) -> Figures:
    """Time from the worker's start until the table holds every job as finished."""
    await queue.prepare()
    async with watching(url, queue) as watch, queue.connected(CONNECTIONS):
        before = await watch.finished()
        await queue.enqueue_many(_payloads(jobs))
        await watch.settle(analyze=analyze)
        ledger = Ledger(jobs)
        meter = await watch.meter()
        async with queue.working(ledger.handle, concurrency):
            handled = await ledger.complete()
            await watch.until_finished()
            used = meter.read()
        finished = await watch.finished() - before
        if (set(handled), finished) != (set(_payloads(jobs)), jobs):
            raise AssertionError(f"of {jobs} jobs, {len(handled)} came and {finished} finished")
    return _figures(used, jobs)


async def bulk(queue: Contestant, url: str, jobs: int, transactions: int) -> Figures:
    """Time transactions with so many jobs, from what the caller has until after COMMIT."""
    await queue.prepare()
    async with watching(url, queue) as watch, queue.connected(1):
        await queue.enqueue_many(_payloads(WARM_UP))
        await watch.settle()
        payloads = _payloads(jobs)
        meter = await watch.meter()
        for _ in range(transactions):
            await queue.enqueue_many(payloads)
        used = meter.read()
        _check_enqueued(await watch.unfinished(), jobs * transactions + WARM_UP)
    return _figures(used, jobs * transactions)


async def enqueue(
    queue: Contestant, url: str, jobs: int, callers: int, connections: int
) -> Figures:
    """Time callers that each enqueue one job after another, each job committed."""
    payloads = iter(_payloads(jobs))

    async def call() -> None:
        for payload in payloads:  # all callers share them
            await queue.enqueue(payload)

    await queue.prepare()
    async with watching(url, queue) as watch, queue.connected(connections):
        await asyncio.gather(*(queue.enqueue(f"warm-up {n}") for n in range(WARM_UP)))
        await watch.settle()
        meter = await watch.meter()
        await asyncio.gather(*(call() for _ in range(callers)))
        used = meter.read()
        _check_enqueued(await watch.unfinished(), jobs + WARM_UP)
    return _figures(used, jobs)


async def work(queue: Contestant, url: str, jobs: int, concurrency: int) -> Figures:
    """Tell how long each job waited that another process enqueues, by the machine's clock."""
    await queue.prepare()
    ledger = Ledger(jobs)
    async with (
        watching(url, queue) as watch,
        queue.connected(CONNECTIONS),
        queue.working(ledger.handle, concurrency),
    ):
        await asyncio.sleep(_LISTENING)
        meter = await watch.meter()
        print(READY, flush=True)
        handled = await ledger.complete()
        await watch.until_finished()
        used = meter.read()
    waited = [came - float(payload) for payload, came in handled.items()]
    return _figures(used, jobs) | {"waited": waited}


async def produce(queue: Contestant, url: str, jobs: int, every: float) -> Figures:
    """Enqueue a job each *every* seconds, whose payload is the moment before."""
    del url
    async with queue.connected(2):
        for _ in range(jobs):
            began = time.monotonic()
            await queue.enqueue(repr(began))
            await asyncio.sleep(began + every - time.monotonic())
    return {}


async def idle(queue: Contestant, url: str, seconds: float, concurrency: int) -> Figures:
    """Count what a worker without jobs sends."""
    await queue.prepare()
    async with AsyncExitStack() as stack:
        watch = await stack.enter_async_context(watching(url, queue))
        stack.enter_context(traced_sqlite())
        await stack.enter_async_context(queue.connected(CONNECTIONS))
        await stack.enter_async_context(queue.working(Ledger(1).handle, concurrency))
        await asyncio.sleep(_LISTENING)
        meter, before = await watch.meter(), await watch.transactions()
        with counting_statements() as sent:
            await asyncio.sleep(seconds)
        used, after = meter.read(), await watch.transactions()
    transactions = None if after is None or before is None else after - before - OWN_TRANSACTIONS
    counted = {"sent": sent.total(), "statements": sent, "transactions": transactions}
    return _figures(used, 1) | counted


MEASURES: Final[dict[str, Callable[..., Awaitable[Figures]]]] = {
    measure.__name__: measure for measure in (drain, bulk, enqueue, work, produce, idle)
}


def _payloads(jobs: int) -> list[str]:
    return [f"{number:022d}" for number in range(jobs)]


def _figures(used: Used, jobs: int) -> Figures:
    return {"jobs": jobs, "wall": used.wall, "client": used.client, "server": used.server}


def _check_enqueued(found: int, expected: int) -> None:
    if found != expected:
        sys.exit(f"{found} of {expected} jobs are in the table")
