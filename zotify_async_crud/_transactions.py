"""Transactions that are run again where the error says that this is safe."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from zotify_async_crud.database import translated_errors
from zotify_async_crud.errors import ZotifyCrudError

P = ParamSpec("P")
T = TypeVar("T")

Sessions: TypeAlias = async_sessionmaker[AsyncSession]

PAUSES: Final = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between the attempts at one transaction; after the last its error is everybody's."""


def transaction(unit: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorate a coroutine that is one whole transaction, and does nothing else that counts.

    Raises:
        ZotifyCrudError: To run it again was not safe, or did not help.
    """

    @functools.wraps(unit)
    async def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        for pause in PAUSES:
            try:
                with translated_errors():
                    return await unit(*args, **kwargs)
            except ZotifyCrudError as error:
                if not error.retry_safe:
                    raise
            await asyncio.sleep(pause)
        with translated_errors():
            return await unit(*args, **kwargs)

    return repeated
