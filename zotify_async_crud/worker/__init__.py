"""A pool of asyncio workers that works off the download queue."""

from zotify_async_crud._backoff import Backoff, ExponentialBackoff
from zotify_async_crud.worker._hooks import Counts, Outcome, WorkerHooks
from zotify_async_crud.worker._jobs import Discard, Handler, JobContext, Retry
from zotify_async_crud.worker._pool import WorkerPool

__all__ = [
    "Backoff",
    "Counts",
    "Discard",
    "ExponentialBackoff",
    "Handler",
    "JobContext",
    "Outcome",
    "Retry",
    "WorkerHooks",
    "WorkerPool",
]
