"""The client of the examples, at a token endpoint that rotates tokens and detects their replay."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import update

from examples.login import Spotify
from tests.support.factories import EPOCH, Sessions
from tests.support.oauth import CLIENT_ID, PLAYLISTS, TokenEndpoint, serving
from tests.support.secrets import KEYRING, KEYS, shown_with_locals
from zotify_async_crud import crud, database
from zotify_async_crud.errors import InvalidGrant, LoginRequired, TokenRefreshFailed
from zotify_async_crud.models import SpotifyToken
from zotify_async_crud.token_refresh import get_valid_spotify_token

CHECKOUT: Final = Path(__file__).parents[2]
SERVICES: Final = 4
CALLERS: Final = 200
EXPIRIES: Final = 5
PROCESSES: Final = 3


@pytest.fixture
def endpoint() -> Iterator[TokenEndpoint]:
    """A token endpoint where nobody is logged in."""
    with serving() as endpoint:
        yield endpoint


@pytest.fixture
async def services(url: str, endpoint: TokenEndpoint) -> AsyncIterator[list[Spotify]]:
    """Several services on one database, each with an engine and an HTTP client of its own."""
    async with contextlib.AsyncExitStack() as stack:
        services = []
        for _ in range(SERVICES):
            engine = database.create_engine(url, token_keyring=KEYRING)
            stack.push_async_callback(engine.dispose)
            http = await stack.enter_async_context(httpx.AsyncClient(timeout=60))
            sessions = database.create_session_factory(engine)
            services.append(Spotify(sessions, http, CLIENT_ID, endpoint.url, endpoint.url))
        yield services


def _an_hour(failures: int) -> float:
    return 3600.0


def _ask(services: list[Spotify]) -> list[asyncio.Task[SpotifyToken]]:
    """Let all callers ask for a valid token at once, each service's as many as another's."""
    return [
        asyncio.create_task(
            # a machine may be so busy that a lease of 30 s ends, or a wait of 1 s after a failure
            get_valid_spotify_token(service.Session, service.refresh, lease=600, backoff=_an_hour)
        )
        for service in services * (CALLERS // SERVICES)
    ]


async def _set(sessions: Sessions, **values: Any) -> None:
    async with sessions.begin() as db:
        await db.execute(update(SpotifyToken).values(**values))


async def _expire(sessions: Sessions) -> None:
    await _set(sessions, expires_at=EPOCH)


async def _stored(sessions: Sessions) -> SpotifyToken:
    async with sessions() as db:
        token = await crud.get_spotify_token(db)
    assert token is not None
    return token


async def test_200_concurrent_callers_refresh_once_at_each_expiry_and_stay_logged_in(
    services: list[Spotify], sessions: Sessions, endpoint: TokenEndpoint
) -> None:
    """All get the newest token, no refresh token is presented twice, and none is revoked."""
    await services[0].log_in(endpoint.log_in())
    for expiry in range(1, EXPIRIES + 1):
        await _expire(sessions)
        endpoint.may_answer.clear()
        asking = _ask(services)
        await asyncio.to_thread(endpoint.wait_for_requests, expiry)
        endpoint.may_answer.set()
        tokens = await asyncio.gather(*asking)

        assert len(tokens) == CALLERS
        assert {token.access_token for token in tokens} == {endpoint.newest_access_token}
        assert endpoint.requests == expiry
    assert list(endpoint.presented.values()) == [1] * EXPIRIES
    assert not endpoint.is_revoked


async def test_callers_who_do_not_wait_for_the_refresh_log_nobody_out(
    services: list[Spotify], sessions: Sessions, endpoint: TokenEndpoint
) -> None:
    """It goes on without them, so that the only refresh token that still holds is not lost."""
    await services[0].log_in(endpoint.log_in())
    await _expire(sessions)
    endpoint.may_answer.clear()
    impatient = _ask(services)
    await asyncio.to_thread(endpoint.wait_for_requests, 1)
    for caller in impatient:
        caller.cancel()
    await asyncio.wait(impatient)
    endpoint.may_answer.set()
    tokens = await asyncio.gather(*_ask(services))

    assert all(caller.cancelled() for caller in impatient)
    assert {token.access_token for token in tokens} == {endpoint.newest_access_token}
    assert endpoint.requests == 1
    await _expire(sessions)
    await asyncio.gather(*_ask(services))
    assert list(endpoint.presented.values()) == [1, 1]
    assert not endpoint.is_revoked


async def test_a_refresh_token_that_is_presented_twice_ends_the_login(
    services: list[Spotify], endpoint: TokenEndpoint
) -> None:
    """The tests above are able to fail: also what the first request was answered is revoked."""
    first, *_ = services
    login = endpoint.log_in()
    answer = await first.refresh(login["refresh_token"])
    assert not endpoint.is_revoked
    with pytest.raises(InvalidGrant):
        await first.refresh(login["refresh_token"])
    assert endpoint.is_revoked
    with pytest.raises(InvalidGrant):
        await first.refresh(answer["refresh_token"])


async def _refresh_without_a_lease(service: Spotify) -> None:
    """Do what looks right to one caller alone: read the token, refresh it, store the answer."""
    token = await _stored(service.Session)
    answer = await service.refresh(token.refresh_token)
    async with service.Session.begin() as db:
        await crud.create_or_update_spotify_token(db, answer)


async def test_without_a_lease_two_callers_log_the_user_out(
    services: list[Spotify], sessions: Sessions, endpoint: TokenEndpoint
) -> None:
    """The tests above are able to fail: the second presents what the first has used."""
    await services[0].log_in(endpoint.log_in())
    await _expire(sessions)
    endpoint.may_answer.clear()
    asking = [asyncio.create_task(_refresh_without_a_lease(service)) for service in services[:2]]
    await asyncio.to_thread(endpoint.wait_for_requests, 2)
    endpoint.may_answer.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    await _expire(sessions)

    assert {type(outcome) for outcome in outcomes} == {type(None), InvalidGrant}
    assert endpoint.is_revoked
    with pytest.raises(LoginRequired):
        await services[0].current_user_playlists()


async def test_a_revoked_login_is_told_to_all_and_asked_about_once(
    services: list[Spotify], sessions: Sessions, endpoint: TokenEndpoint
) -> None:
    """Here a thief has used the refresh token. A new login helps all at once."""
    await services[0].log_in(endpoint.log_in())
    await _expire(sessions)
    await services[0].refresh((await _stored(sessions)).refresh_token)
    stolen = endpoint.requests

    for _ in range(2):  # all at once, and all who come later
        outcomes = await asyncio.gather(*_ask(services), return_exceptions=True)
        assert {(type(outcome), str(outcome)) for outcome in outcomes} == {
            (LoginRequired, "log in again: the refresh token holds no more")
        }
    assert endpoint.requests == stolen + 1
    assert endpoint.is_revoked

    await services[0].log_in(endpoint.log_in())
    tokens = await asyncio.gather(*_ask(services))
    assert {token.access_token for token in tokens} == {endpoint.newest_access_token}
    assert endpoint.requests == stolen + 1
    await _expire(sessions)
    tokens = await asyncio.gather(*_ask(services))
    assert {token.access_token for token in tokens} == {endpoint.newest_access_token}
    assert endpoint.requests == stolen + 2
    assert not endpoint.is_revoked


async def test_an_endpoint_that_fails_is_asked_once_and_no_error_shows_a_secret(
    services: list[Spotify],
    sessions: Sessions,
    endpoint: TokenEndpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor does any log. Once the wait is over and the endpoint recovers, the login still holds."""
    await services[0].log_in(endpoint.log_in())
    await _expire(sessions)
    token = await _stored(sessions)
    endpoint.fails = True
    with caplog.at_level(logging.DEBUG):
        outcomes = await asyncio.gather(*_ask(services), return_exceptions=True)

    assert endpoint.presented == {token.refresh_token: 1}
    shown = [caplog.text]
    for failure in outcomes:
        assert isinstance(failure, TokenRefreshFailed)
        assert failure.reason == "HTTPStatusError"
        shown += shown_with_locals(failure)
    assert "500 Internal Server Error" in caplog.text  # httpx has logged what it did
    for secret in (token.access_token, token.refresh_token, *KEYS):
        assert not any(secret in each for each in shown)

    endpoint.fails = False
    await _set(sessions, retry_at=EPOCH)
    tokens = await asyncio.gather(*_ask(services))
    assert {token.access_token for token in tokens} == {endpoint.newest_access_token}
    assert endpoint.presented == {token.refresh_token: 2}  # a failed request has not used it up
    assert not endpoint.is_revoked


class Example:
    """Runs the example as a process."""

    def __init__(self, url: str, endpoint: TokenEndpoint) -> None:
        urls = ("--accounts-url", endpoint.url, "--api-url", endpoint.url)
        self._command = (sys.executable, "-m", "examples.login", url, CLIENT_ID, *urls)

    async def run(self, *options: str, given: str = "") -> tuple[int | None, str]:
        """Return the exit code of the process, and its log."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *options,
            cwd=CHECKOUT,
            env={**os.environ, "ZOTIFY_TOKEN_KEYS": " ".join(KEYS)},
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, log = await process.communicate(given.encode())
        return process.returncode, log.decode()


async def test_processes_share_one_login(
    url: str, sessions: Sessions, endpoint: TokenEndpoint
) -> None:
    """The first stores it, and those that find it expired refresh it once for all."""
    example = Example(url, endpoint)
    login = json.dumps(endpoint.log_in())
    outcomes = [await example.run("--login", given=login)]
    assert endpoint.requests == 0
    await _expire(sessions)
    outcomes += await asyncio.gather(*(example.run() for _ in range(PROCESSES)))

    for code, log in outcomes:
        assert code == 0, log
        shown = [line.split(" playlist ")[1] for line in log.splitlines() if " playlist " in line]
        assert tuple(shown) == PLAYLISTS
    assert endpoint.requests == 1
    assert not endpoint.is_revoked


async def test_a_process_that_needs_a_login_says_so(url: str, endpoint: TokenEndpoint) -> None:
    """In one line, and with an exit code that is not 0."""
    assert await Example(url, endpoint).run() == (1, "log in again: nobody is logged in\n")
