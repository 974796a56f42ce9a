"""The queues to measure: this library, its peers, and floors of hand-written SQL."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, TypeAlias

Handler: TypeAlias = Callable[[str], Awaitable[None]]
"""Is awaited for each job with what was enqueued."""


class Contestant(Protocol):
    """One queue in one database, asked for the same by every measure."""

    unfinished: str
    """A query for the number of jobs that the table does not hold as finished."""

    finished: str
    """A query for the number of jobs that the table holds as finished."""

    async def prepare(self) -> None:
        """Create the tables, unless the database has them."""

    def connected(self, connections: int) -> AbstractAsyncContextManager[None]:
        """Have at most so many connections to enqueue and work with while the block runs."""

    async def enqueue(self, payload: str) -> None:
        """Enqueue one job; it is durable when this returns."""

    async def enqueue_many(self, payloads: Sequence[str]) -> None:
        """Enqueue a job for each in one transaction, committed when this returns."""

    def working(self, handler: Handler, concurrency: int) -> AbstractAsyncContextManager[None]:
        """Have a worker with so many jobs at a time while the block runs."""


OURS: Final = "zotify-async-crud"
FLOOR: Final = "floor"

_MODULES: Final = {
    OURS: "ours",
    "zotify-async-crud, crud": "ours",
    "zotify-async-crud, objects": "ours",
    FLOOR: "floor",
    "floor, COPY": "floor",
    "floor, NOTIFY": "floor",
    "pgqueuer": "pgqueuer",
    "pgqueuer, capped": "pgqueuer",
    "oban": "oban",
    "chancy": "chancy",
    "procrastinate": "procrastinate",
}
"""Who is made where; what follows the comma is a variant."""

_PEERS: Final = ("pgqueuer", "oban", "chancy", "procrastinate")


def peers() -> list[str]:
    """Return the peers that are installed: oban needs Python 3.12."""
    return [peer for peer in _PEERS if importlib.util.find_spec(peer)]


def missing_peers() -> list[str]:
    """Return the peers that are not installed."""
    return [peer for peer in _PEERS if not importlib.util.find_spec(peer)]


def contestant(name: str, url: str) -> Contestant:
    """Return the contestant of this name for the database at *url*; import no other's packages."""
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    variant = name.partition(", ")[2]
    made: Contestant = module.contestant(url, variant)
    return made


def dsn(url: str) -> str:
    """Return SQLAlchemy's *url* as drivers take it."""
    return url.replace("+asyncpg", "", 1)
