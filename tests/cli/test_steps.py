"""Parts of the demo by themselves: transactions, the token, and what may be told."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from sqlalchemy import make_url

from tests.support.factories import Sessions, token_data
from zotify_async_crud import _transactions, crud
from zotify_async_crud.demo import _steps, _token
from zotify_async_crud.errors import OutcomeUnknown, TransactionConflict, ZotifyCrudError


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make transactions run again at once."""
    monkeypatch.setattr(_transactions, "PAUSES", (0.0, 0.0))


async def test_a_conflict_is_run_again(no_pauses: None) -> None:
    """Nothing of the first attempt was committed."""
    errors = [TransactionConflict("deadlock"), TransactionConflict("deadlock")]

    @_transactions.transaction
    async def unit() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert await unit() == "done"


@pytest.mark.parametrize(
    ("error", "attempts"), [(TransactionConflict("deadlock"), 3), (OutcomeUnknown("lost"), 1)]
)
async def test_other_errors_and_endless_conflicts_come_out(
    error: ZotifyCrudError, attempts: int, no_pauses: None
) -> None:
    """The number of attempts is bounded."""
    tried = []

    @_transactions.transaction
    async def unit() -> None:
        tried.append(1)
        raise error

    with pytest.raises(type(error)):
        await unit()
    assert len(tried) == attempts


async def test_the_token_is_refreshed_each_time_it_expires(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh token of the login stays."""
    monkeypatch.setattr(_token, "LIFETIME", dt.timedelta(milliseconds=50))
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        refreshing = group.create_task(_token.keep_fresh(sessions, work))
        tokens = {await changed_token(sessions, set())}
        while len(tokens) < 4:
            tokens.add(await changed_token(sessions, tokens))
        work.set_result(None)
    assert refreshing.result() >= 3
    assert len({refresh_token for _, refresh_token in tokens}) == 1


async def changed_token(sessions: Sessions, known: set[tuple[str, str]]) -> tuple[str, str]:
    """Wait for a token that is not *known*."""
    while True:
        async with sessions.begin() as db:
            token = await crud.get_spotify_token(db)
        if token is not None and (token.access_token, token.refresh_token) not in known:
            return token.access_token, token.refresh_token
        await asyncio.sleep(0.001)


async def test_a_token_that_has_not_expired_is_left_alone(sessions: Sessions) -> None:
    """It may be a real one."""
    async with sessions.begin() as db:
        await crud.create_or_update_spotify_token(db, token_data())
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    work.set_result(None)
    assert await _token.keep_fresh(sessions, work) == 0
    async with sessions.begin() as db:
        token = await crud.get_spotify_token(db)
    assert token is not None
    assert token.access_token == token_data()["access_token"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite+aiosqlite:///zotify.db", "sqlite+aiosqlite:///zotify.db"),
        ("postgresql+asyncpg://ann:s3cret@db/z", "postgresql+asyncpg://ann:***@db/z"),
        (
            "postgresql+asyncpg://ann@/z?host=db&port=5433&password=s3cret",
            "postgresql+asyncpg://ann@/z?host=db&port=5433",
        ),
    ],
)
def test_where_the_database_is_can_be_told_to_anybody(url: str, shown: str) -> None:
    """Passwords stand in more than one place of a URL."""
    assert _steps.location(make_url(url)) == shown
