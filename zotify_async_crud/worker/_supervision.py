"""Loops that outlive whatever goes wrong in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from zotify_async_crud._backoff import ExponentialBackoff
from zotify_async_crud.errors import OutcomeUnknown

_LOG: Final = logging.getLogger("zotify_async_crud.worker")
_PAUSES: Final = ExponentialBackoff(first=0.1, longest=5.0)


def _never() -> bool:
    return False


def _always() -> bool:
    return True


async def keep_going(
    name: str,
    step: Callable[[], Awaitable[None]],
    done: Callable[[], bool] = _never,
    works: Callable[[], bool] = _always,
) -> None:
    """Run *step* again and again until *done*, and after a failure once a pause is over.

    Until it *works*, an error that another attempt would not mend is raised.
    """
    failures = 0
    while not done():
        try:
            await step()
        except Exception as error:
            passes = isinstance(error, OutcomeUnknown) or getattr(error, "retry_safe", False)
            if not (passes or works()):
                raise
            failures += 1
            pause = _PAUSES(failures)
            _LOG.warning("%s: %s; again in %.1f s", name, error, pause, exc_info=not passes)
            await asyncio.sleep(pause)
        else:
            failures = 0
