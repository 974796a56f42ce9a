"""Keys that are changed while the token is read, written and refreshed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import EPOCH, Sessions, token_data
from tests.support.secrets import KEYS
from zotify_async_crud import crud, database, encryption
from zotify_async_crud.encryption import TokenKeyring, key_id
from zotify_async_crud.errors import LoginRequired
from zotify_async_crud.token_refresh import get_valid_spotify_token

FIRST, SECOND, THIRD = KEYS
READERS: Final = 3


class Service:
    """A process that reads, writes and refreshes the token as fast as it can."""

    def __init__(self, engine: AsyncEngine, stamps: itertools.count[int]) -> None:
        self._engine, self._stamps = engine, stamps
        self._sessions = database.create_session_factory(engine)
        self._works = True
        self._round_is_over = asyncio.Event()
        self._rounds = [0] * (READERS + 1)

    async def work(self) -> None:
        """Run everything until ``stop``."""
        async with asyncio.TaskGroup() as tasks:
            for place, unit in enumerate([self.read] * READERS + [self._renew]):
                tasks.create_task(self._repeat(place, unit))

    async def switch(self, keyring: TokenKeyring) -> None:
        """Use *keyring*, and wait until nothing is under way that began before."""
        encryption.use_keyring(self._engine, keyring)
        goals = [rounds + 2 for rounds in self._rounds]
        while any(done < goal for done, goal in zip(self._rounds, goals, strict=True)):
            await self._round_is_over.wait()

    def stop(self) -> None:
        """Let everything end."""
        self._works = False

    async def read(self) -> None:
        """Read the token once; both of its parts are of one write."""
        async with self._sessions.begin() as db:
            token = await crud.get_spotify_token(db)
        assert token is not None
        access, refresh = token.access_token, token.refresh_token
        assert access.removeprefix("access-") == refresh.removeprefix("refresh-")

    async def _repeat(self, place: int, unit: Callable[[], Awaitable[None]]) -> None:
        while self._works:
            await unit()
            self._rounds[place] += 1
            self._round_is_over.set()
            self._round_is_over = asyncio.Event()

    async def _renew(self) -> None:
        async with self._sessions.begin() as db:
            await crud.create_or_update_spotify_token(db, self._pair(expires_at=EPOCH))
        await get_valid_spotify_token(self._sessions, self._answer)

    async def _answer(self, refresh_token: str) -> Mapping[str, Any]:
        return self._pair(expires_at=None, expires_in=3600)

    def _pair(self, **expiry: Any) -> dict[str, object]:
        stamp = next(self._stamps)
        pair = {"access_token": f"access-{stamp}", "refresh_token": f"refresh-{stamp}"}
        return token_data(**pair, **expiry)


@pytest.fixture
async def services(url: str) -> AsyncIterator[list[Service]]:
    """Two processes, as far as the library can tell."""
    engines = [database.create_engine(url, token_keyring=TokenKeyring(FIRST)) for _ in range(2)]
    stamps = itertools.count()
    yield [Service(engine, stamps) for engine in engines]
    for engine in engines:
        await engine.dispose()


async def _rotated(sessions: Sessions) -> set[str | None]:
    """Rotate, and return the ids of the keys that the columns need from then on."""
    async with sessions.begin() as db:
        await crud.rotate_token_keys(db)
    async with sessions() as db:
        stored = await db.execute(text("SELECT access_token, refresh_token FROM spotify_tokens"))
        return {key_id(value) for value in stored.one()}


async def test_keys_rotate_twice_while_everybody_works(
    services: list[Service], sessions: Sessions, engine: AsyncEngine
) -> None:
    """No error reaches anybody, and afterwards nothing needs an older key."""
    encryption.use_keyring(engine, TokenKeyring(FIRST))
    async with sessions.begin() as db:
        data = token_data(access_token="access-x", refresh_token="refresh-x")
        await crud.create_or_update_spotify_token(db, data)
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        for service in services:
            tasks.create_task(service.work())
        for old, new in ((FIRST, SECOND), (SECOND, THIRD)):
            for ring in (TokenKeyring(old, new), TokenKeyring(new, old)):
                encryption.use_keyring(engine, ring)
                for service in services:
                    await service.switch(ring)
            assert await _rotated(sessions) == {TokenKeyring(new).current_id}
            for service in services:
                await service.switch(TokenKeyring(new))
        for service in services:
            service.stop()

    encryption.use_keyring(engine, TokenKeyring(THIRD))
    async with sessions() as db:
        assert await crud.get_spotify_token(db) is not None


async def test_a_key_that_others_do_not_know_yet_is_told_by_a_clear_error(
    services: list[Service], sessions: Sessions, engine: AsyncEngine
) -> None:
    """The test above is able to fail: the order of the switches matters."""
    encryption.use_keyring(engine, TokenKeyring(SECOND))
    async with sessions.begin() as db:
        await crud.create_or_update_spotify_token(db, token_data())

    with pytest.raises(LoginRequired) as refused:
        await services[0].read()

    assert str(refused.value) == (
        "log in again: the stored token is encrypted by a key that is not in the key ring"
    )
