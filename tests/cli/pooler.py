"""A pooler in transaction mode before a PostgreSQL server, as small as one can be."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from sqlalchemy import URL, make_url

_Requests: TypeAlias = asyncio.Queue[bytes]
_TERMINATE: Final = b"X"


@dataclass
class _Server:
    """A connection to the server, which no client has for longer than a transaction."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Pooler:
    """Lends a connection for each transaction: the one that came back last, as PgBouncer does."""

    def __init__(self, server: str, folder: Path, *, keeps_sessions: bool) -> None:
        self._url, self._folder = make_url(server), folder
        self._keeps_sessions = keeps_sessions
        self._servers: list[_Server] = []
        self._idle: list[_Server] = []
        self._greeting = b""
        self._numbers = itertools.count(1)
        self._clients: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The URL of the same database through the pooler."""
        server = self._url
        through = URL.create(
            server.drivername,
            server.username,
            server.password,
            database=server.database,
            query={"host": str(self._folder)},
        )
        return through.render_as_string(hide_password=False)

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Serve a client until it goes."""
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        startup = await _startup(client)
        requests: _Requests = asyncio.Queue()
        reading = asyncio.create_task(_read(client, requests))
        try:
            await self._serve(startup, requests, to_client)
        finally:
            reading.cancel()
            to_client.close()

    async def stop(self) -> None:
        """Close the connections to the server; whatever clients there are get nothing more."""
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for server in self._servers:
            server.writer.close()
            await server.writer.wait_closed()

    async def _serve(
        self, startup: bytes, requests: _Requests, to_client: asyncio.StreamWriter
    ) -> None:
        server = await self._lent(startup)
        # its own number for the connection, which is no process of the server
        key = b"K" + struct.pack("!iii", 12, next(self._numbers), 0)
        to_client.write(self._greeting + key + b"Z" + struct.pack("!i", 5) + b"I")
        self._take_back(server)
        while request := await requests.get():
            if not self._keeps_sessions:
                server = await self._lent(startup)
            await _transaction(server, request, requests, to_client)
            self._take_back(server)

    def _take_back(self, server: _Server) -> None:
        if not self._keeps_sessions:
            self._idle.append(server)

    async def _lent(self, startup: bytes) -> _Server:
        if self._idle:
            return self._idle.pop()
        server = _Server(*await _connected(self._url))
        self._servers.append(server)
        server.writer.write(startup)
        greeting = b""
        while (message := await _message(server.reader))[:1] != b"Z":
            if message[:1] in {b"R", b"S"}:
                greeting += message
        self._greeting = greeting
        return server


async def _connected(url: URL) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = url.query.get("host", url.host), url.query.get("port", url.port or 5432)
    if str(host).startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await asyncio.open_connection(str(host), int(str(port)))


async def _transaction(
    server: _Server, request: bytes, requests: _Requests, to_client: asyncio.StreamWriter
) -> None:
    """Pass on *request* and what follows, until the transaction ends."""
    server.writer.write(request)
    replies = asyncio.create_task(_pass_replies(server, to_client))
    while not replies.done():
        following = asyncio.create_task(requests.get())
        await asyncio.wait({following, replies}, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            server.writer.write(following.result())
        following.cancel()


async def _startup(client: asyncio.StreamReader) -> bytes:
    length = await client.readexactly(4)
    return length + await client.readexactly(struct.unpack("!i", length)[0] - 4)


async def _read(client: asyncio.StreamReader, requests: _Requests) -> None:
    """Put what the client sends into *requests*, and nothing in the end."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while not (request := await _message(client)).startswith(_TERMINATE):
            requests.put_nowait(request)
    requests.put_nowait(b"")


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


async def _pass_replies(server: _Server, to_client: asyncio.StreamWriter) -> None:
    """Pass on what the server answers, until it is in no transaction any more."""
    message = b""
    while not message.startswith(b"Z") or not message.endswith(b"I"):
        message = await _message(server.reader)
        to_client.write(message)


@contextlib.asynccontextmanager
async def pooler(server: str, *, keeps_sessions: bool = False) -> AsyncIterator[Pooler]:
    """Have a pooler before *server*; it ends with the block.

    One that *keeps_sessions* lends a connection for as long as the client stays.
    """
    with tempfile.TemporaryDirectory(prefix="zpooler-") as folder:
        before = Pooler(server, Path(folder), keeps_sessions=keeps_sessions)
        listening = await asyncio.start_unix_server(before.serve, Path(folder) / ".s.PGSQL.5432")
        try:
            yield before
        finally:
            listening.close()
            await before.stop()
