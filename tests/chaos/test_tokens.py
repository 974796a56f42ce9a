"""Processes that all need a valid token at once, some of them killed while they refresh it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import update

from tests.chaos.refresher import CALLERS
from tests.support.factories import EPOCH, Sessions, add_token
from zotify_async_crud.models import SpotifyToken

REPOSITORY: Final = Path(__file__).parents[2]
PROCESSES: Final = 4
EXPIRIES: Final = 20
KILLED_AT: Final = (4, 13)
"""The expiries in which whoever refreshes is killed."""

_PATIENCE: Final = 120.0


class Endpoint:
    """A token endpoint that writes down who asks."""

    def __init__(self) -> None:
        self.asked_by: list[int] = []
        self.answered = 0
        self.kills = False
        self.has_killed = asyncio.Event()
        self.answers_after = 1
        self._has_all = asyncio.Event()

    def expect(self, requests: int = 1, *, kills: bool = False) -> None:
        """Forget who has asked; answer once there are so many *requests*, or kill the first."""
        self.asked_by, self.answers_after, self.kills = [], requests, kills
        self._has_all.clear()
        self.has_killed.clear()

    @property
    def newest(self) -> str:
        """The access token that was given out last."""
        return f"access-{self.answered}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        pid, refresh_token = json.loads(await reader.readline())
        assert refresh_token == f"refresh-{self.answered}" or self.answers_after > 1
        self.asked_by.append(pid)
        if self.kills and len(self.asked_by) == 1:
            os.kill(pid, signal.SIGKILL)
            self.has_killed.set()
        else:
            if len(self.asked_by) >= self.answers_after:
                self._has_all.set()
            await self._has_all.wait()
            self.answered += 1
            new = {"access_token": self.newest, "refresh_token": f"refresh-{self.answered}"}
            writer.write(f"{json.dumps({**new, 'expires_in': 3600})}\n".encode())
        writer.close()


@contextlib.asynccontextmanager
async def _serving(endpoint: Endpoint) -> AsyncIterator[int]:
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Refreshers:
    """Processes whose callers all ask at once."""

    def __init__(self, url: str, port: int, *, unleased: bool = False) -> None:
        self._command = (sys.executable, "-m", "tests.chaos.refresher", url, str(port))
        self._environment = {**os.environ, **({"UNLEASED": "1"} if unleased else {})}
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self) -> None:
        """Start processes until there are enough."""
        alive = [each for each in self._processes if each.returncode is None]
        self._processes = alive + [
            await asyncio.create_subprocess_exec(
                *self._command,
                cwd=REPOSITORY,
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(PROCESSES - len(alive))
        ]

    async def ask(self) -> list[str]:
        """Return what the callers of all processes got; those of a killed one get nothing."""
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"ask\n")
        lines = await asyncio.gather(*map(_line, self._processes))
        return [outcome for line in lines if line for outcome in json.loads(line)]

    async def end(self) -> None:
        """Let all processes end."""
        for process in self._processes:
            await process.communicate(b"")  # the end of its input is that of the process


async def _line(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        await process.wait()
    return line


async def _expire(sessions: Sessions) -> None:
    async with sessions.begin() as db:
        await db.execute(update(SpotifyToken).values(expires_at=EPOCH))


async def _end_lease(sessions: Sessions) -> None:
    async with sessions.begin() as db:
        await db.execute(update(SpotifyToken).values(lease_expires_at=EPOCH))


@pytest.mark.timeout(600)
async def test_processes_refresh_a_token_once_and_replace_who_was_killed(
    url: str, sessions: Sessions
) -> None:
    """One request for each expiry, two where the first caller was killed, and one newest token."""
    await add_token(sessions, access_token="access-0", refresh_token="refresh-0")
    endpoint = Endpoint()
    async with _serving(endpoint) as port:
        refreshers = Refreshers(url, port)
        for expiry in range(EXPIRIES):
            await refreshers.start()
            await _expire(sessions)
            is_killed = expiry in KILLED_AT
            endpoint.expect(kills=is_killed)
            async with asyncio.timeout(_PATIENCE):
                asking = asyncio.create_task(refreshers.ask())
                if is_killed:
                    await endpoint.has_killed.wait()
                    await _end_lease(sessions)  # rather than wait for its end
                tokens = await asking

            assert set(tokens) == {endpoint.newest}
            assert len(tokens) == CALLERS * (PROCESSES - is_killed)
            assert len(endpoint.asked_by) == 1 + is_killed
        await refreshers.end()
    assert endpoint.answered == EXPIRIES


async def test_without_the_lease_each_process_asks(url: str, sessions: Sessions) -> None:
    """The test above is able to fail."""
    await add_token(sessions, access_token="access-0", refresh_token="refresh-0")
    await _expire(sessions)
    endpoint = Endpoint()
    endpoint.expect(requests=PROCESSES)
    async with _serving(endpoint) as port:
        refreshers = Refreshers(url, port, unleased=True)
        await refreshers.start()
        async with asyncio.timeout(_PATIENCE):
            await refreshers.ask()
        await refreshers.end()

    assert len(set(endpoint.asked_by)) == PROCESSES
