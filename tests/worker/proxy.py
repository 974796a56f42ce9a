"""A proxy before a PostgreSQL server, by which the tests cut connections when they want to."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

from sqlalchemy import make_url

Cut: TypeAlias = Literal["the request", "the reply"]
"""What never arrives: nothing has happened then, or all of it has."""

CUTS: Final[tuple[Cut, ...]] = ("the request", "the reply")

_BIND: Final = b"B"
"""How the message begins that runs a statement."""

_READY: Final = b"Z\0\0\0\5"
"""What stands at the end of a complete reply."""


class Proxy:
    """Passes on everything, until it is told to cut the connection of a statement."""

    def __init__(self, server: str, folder: Path) -> None:
        self._server, self._folder = make_url(server), folder
        self._listening: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._cut: tuple[Cut, bytes] | None = None
        self.cuts = 0
        """How many connections were cut as they should be."""

    @property
    def url(self) -> str:
        """The URL of the same database through the proxy."""
        through = self._server.set(host=None, port=None).update_query_dict(
            {"host": str(self._folder)}
        )
        return through.render_as_string(hide_password=False)

    def cut(self, what: Cut, *, of: str) -> None:
        """Cut *what* of the next statement that is run with *of* among its parameters."""
        self._cut = what, of.encode()

    async def start(self) -> None:
        """Take connections."""
        path = self._folder / ".s.PGSQL.5432"
        self._listening = await asyncio.start_unix_server(self._connect, path)

    async def stop(self) -> None:
        """Cut all connections, and take no more."""
        if self._listening is not None:
            self._listening.close()
        for connection in self._connections:
            connection.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        server, to_server = await self._connect_to_server()
        reply_is_cut = asyncio.Event()
        ways = [
            asyncio.create_task(self._pass_requests(client, to_server, reply_is_cut)),
            asyncio.create_task(self._pass_replies(server, to_client, reply_is_cut)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in (to_client, to_server):
                writer.close()
            self._connections.discard(task)

    async def _connect_to_server(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = self._server.query.get("host", self._server.host)
        port = self._server.port or 5432
        if str(host).startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(str(host), port)

    async def _pass_requests(
        self,
        client: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        reply_is_cut: asyncio.Event,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while request := await client.read(1_000_000):
                if self._cut and request.startswith(_BIND) and self._cut[1] in request:
                    (what, _), self._cut = self._cut, None
                    if what == "the request":
                        self.cuts += 1
                        return
                    reply_is_cut.set()
                server.write(request)

    async def _pass_replies(
        self,
        server: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        reply_is_cut: asyncio.Event,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while reply := await server.read(1_000_000):
                if not reply_is_cut.is_set():
                    client.write(reply)
                elif _READY in reply:  # by now the server has done it
                    self.cuts += 1
                    return


@contextlib.asynccontextmanager
async def proxy(server: str) -> AsyncIterator[Proxy]:
    """Have a proxy before *server*, which may be started in the block; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="zproxy-") as folder:
        before = Proxy(server, Path(folder))
        try:
            yield before
        finally:
            await before.stop()
