"""A process with callers who need a valid token: ``python -m tests.chaos.refresher URL PORT``.

For each line of its input all of them ask at once, and it answers with what they got. The token
endpoint is at the port. With ``UNLEASED`` in the environment nobody minds another's lease.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import update

from tests.support.secrets import KEYRING
from zotify_async_crud import database
from zotify_async_crud._statements import spotify_tokens as sql
from zotify_async_crud.crud._token_leases import Found
from zotify_async_crud.token_refresh import get_valid_spotify_token

CALLERS: Final = 13
LEASE: Final = 20.0
"""Seconds that a refresher may take: many, or a busy machine would have it replaced."""


class Endpoint:
    """The token endpoint, as the process sees it."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def refresh(self, refresh_token: str) -> Mapping[str, Any]:
        """Ask for a new token."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"{json.dumps([os.getpid(), refresh_token])}\n".encode())
            answer: dict[str, Any] = json.loads(await reader.readline())
            return answer
        finally:
            writer.close()


def _take_anyway(seen: Any, lease: Any) -> Any:
    return (
        update(sql.TOKENS)
        .values(lease_version=sql.TOKENS.c.lease_version + 1)
        .returning(sql.TOKENS.c.lease_version, sql.NOW)
    )


async def main(url: str, port: int) -> None:
    """Ask for the token whenever a line comes, until the input ends."""
    engine = database.create_engine(url, token_keyring=KEYRING)
    sessions = database.create_session_factory(engine)
    endpoint = Endpoint(port)
    while await asyncio.to_thread(sys.stdin.readline):
        asking = (
            get_valid_spotify_token(sessions, endpoint.refresh, lease=LEASE) for _ in range(CALLERS)
        )
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        told = [getattr(outcome, "access_token", repr(outcome)) for outcome in outcomes]
        sys.stdout.write(f"{json.dumps(told)}\n")
        sys.stdout.flush()
    await engine.dispose()


if __name__ == "__main__":
    if "UNLEASED" in os.environ:
        sql.take_lease = _take_anyway
        Found.is_leased = property(lambda _: False)  # type: ignore[assignment, method-assign]
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
