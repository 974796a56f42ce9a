"""A valid token: refreshed once for all who ask, by whoever has the lease."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
from collections import UserDict
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.factories import (
    EPOCH,
    EXPIRES_AT,
    Sessions,
    add_token,
    database_now,
    statements_sent,
)
from tests.support.secrets import KEYRING, shown_with_locals
from zotify_async_crud import _transactions, crud, database, token_refresh
from zotify_async_crud._statements.spotify_tokens import Lease
from zotify_async_crud.crud import _token_leases as leases
from zotify_async_crud.encryption import TokenInClear
from zotify_async_crud.errors import (
    InvalidGrant,
    InvalidValue,
    LoginRequired,
    SchemaMismatch,
    TokenRefreshFailed,
)
from zotify_async_crud.models import Base, SpotifyToken
from zotify_async_crud.schemas import SpotifyTokenData
from zotify_async_crud.token_refresh import get_valid_spotify_token

CALLERS: Final = 50
HOUR: Final = dt.timedelta(hours=1)


def no_wait(failures: int) -> float:
    """Let the next caller try at once."""
    return 0.0


class Endpoint:
    """A token endpoint that counts, and holds its answers back while it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        self.error: Exception | None = None
        self.was_asked = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, refresh_token: str) -> Mapping[str, Any]:
        """Answer, or raise, once that is allowed."""
        self.asked.append(str(refresh_token))
        number = len(self.asked)
        self.was_asked.set()
        await self.may_answer.wait()
        if self.error:
            raise self.error
        pair = {"access_token": f"new-access-{number}", "refresh_token": f"new-refresh-{number}"}
        return {**pair, "token_type": "Bearer", "expires_in": 3600, **self.answers}


@pytest.fixture
def endpoint() -> Endpoint:
    """An endpoint that answers."""
    return Endpoint()


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


async def _values(sessions: Sessions) -> tuple[str, str]:
    token = await _stored(sessions)
    return token.access_token, token.refresh_token


async def _asking(
    sessions: Sessions, endpoint: Endpoint, lease: dt.timedelta = HOUR
) -> asyncio.Task[SpotifyToken]:
    """Return a caller whose refresh is under way, and is not answered yet."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.may_answer.clear()
    caller = asyncio.create_task(get_valid_spotify_token(sessions, endpoint, lease=lease))
    await endpoint.was_asked.wait()
    return caller


async def test_a_token_that_is_good_is_returned_without_asking(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """It belongs to no session, and all of it can be read."""
    await add_token(sessions, scope="user-library-read", token_type="Bearer")

    token = await get_valid_spotify_token(sessions, endpoint)

    assert (token.access_token, token.refresh_token) == ("access-1", "refresh-1")
    assert (token.scope, token.token_type) == ("user-library-read", "Bearer")
    assert endpoint.asked == []


async def test_an_expired_token_is_refreshed_once_for_all_who_ask(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """The endpoint gets the stored refresh token, and everybody the new access token."""
    await add_token(sessions, scope="user-library-read")
    for number in range(1, 4):
        await _expire(sessions)
        tokens = await asyncio.gather(
            *(get_valid_spotify_token(sessions, endpoint) for _ in range(CALLERS))
        )
        assert {token.access_token for token in tokens} == {f"new-access-{number}"}

    assert endpoint.asked == ["refresh-1", "new-refresh-1", "new-refresh-2"]
    stored = await _stored(sessions)
    assert (stored.access_token, stored.refresh_token) == ("new-access-3", "new-refresh-3")
    assert (stored.scope, stored.token_type) == ("user-library-read", "Bearer")
    assert (stored.lease_expires_at, stored.failures) == (None, 0)


async def test_no_transaction_and_no_connection_is_open_while_the_endpoint_is_asked(
    sessions: Sessions, engine: AsyncEngine, endpoint: Endpoint
) -> None:
    """Others read and write, also the token, and the pool has all of its connections."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.may_answer.clear()
    asking = [
        asyncio.create_task(get_valid_spotify_token(sessions, endpoint)) for _ in range(CALLERS)
    ]
    await endpoint.was_asked.wait()

    async with asyncio.timeout(30):
        await _set(sessions, scope="written meanwhile")
    assert (await _stored(sessions)).lease_expires_at is not None
    endpoint.may_answer.set()
    tokens = await asyncio.gather(*asking)

    assert {token.access_token for token in tokens} == {"new-access-1"}
    assert {token.scope for token in tokens} == {"written meanwhile"}
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("answers", [{}, {"refresh_token": None}], ids=["absent", "null"])
async def test_a_refresh_token_that_is_not_sent_again_stays(
    sessions: Sessions, answers: dict[str, Any]
) -> None:
    """Spotify sends a new one only sometimes."""
    await add_token(sessions, expires_at=EPOCH)

    async def refresh(refresh_token: str) -> Mapping[str, Any]:
        return {"access_token": "new", "expires_in": 3600, **answers}

    await get_valid_spotify_token(sessions, refresh)

    assert await _values(sessions) == ("new", "refresh-1")


async def test_leeway_is_what_the_token_is_still_good_for(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """By the database's clock, in seconds or as a timedelta."""
    async with sessions() as db:
        now = await database_now(db)
    await add_token(sessions, expires_at=now + HOUR / 2)

    await get_valid_spotify_token(sessions, endpoint, leeway=0)
    await get_valid_spotify_token(sessions, endpoint, leeway=HOUR / 4)
    assert endpoint.asked == []
    await get_valid_spotify_token(sessions, endpoint, leeway=HOUR * 0.9)
    assert endpoint.asked == ["refresh-1"]


def _looks(sent: Sequence[tuple[str, Any]]) -> int:
    return sum("FROM spotify_tokens" in statement for statement, _ in sent)


async def _outcomes(
    engine: AsyncEngine,
    endpoint: Endpoint,
    callers: Iterable[Coroutine[Any, Any, SpotifyToken]],
) -> list[SpotifyToken | BaseException]:
    """Return what all get who have looked before the first of them is answered."""
    endpoint.may_answer.clear()
    with statements_sent(engine) as sent:
        asking = asyncio.gather(*callers, return_exceptions=True)
        async with asyncio.timeout(60):
            while _looks(sent) < CALLERS:  # noqa: ASYNC110 - the database sets no event
                await asyncio.sleep(0.01)
    endpoint.may_answer.set()
    return await asking


async def test_a_leeway_that_no_token_lives_for_is_refused_after_a_refresh(
    sessions: Sessions, engine: AsyncEngine, endpoint: Endpoint
) -> None:
    """All who asked are told, and the endpoint is not asked for ever."""
    await add_token(sessions, expires_at=EPOCH)
    asking = (get_valid_spotify_token(sessions, endpoint, leeway=2 * HOUR) for _ in range(CALLERS))
    outcomes = await _outcomes(engine, endpoint, asking)

    assert {str(outcome) for outcome in outcomes} == {
        "leeway: Input should be less than a new token's life"
    }
    assert len(endpoint.asked) < CALLERS / 5  # whoever first looked after a refresh tries anew
    assert (await get_valid_spotify_token(sessions, endpoint)).access_token.startswith("new-")


async def test_nobody_is_logged_in(sessions: Sessions, endpoint: Endpoint) -> None:
    """One clear error, and the endpoint is not asked."""
    with pytest.raises(LoginRequired, match="nobody is logged in"):
        await get_valid_spotify_token(sessions, endpoint)
    assert endpoint.asked == []


async def test_a_failed_refresh_is_one_error_for_all_who_wait_and_for_some_time(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """Nobody asks before the wait is over, and the token that is stored stays."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.error = OSError("could not send refresh-1")
    asking = (
        get_valid_spotify_token(sessions, endpoint, backoff=lambda _: 60.0) for _ in range(CALLERS)
    )
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    with pytest.raises(TokenRefreshFailed) as later:
        await get_valid_spotify_token(sessions, endpoint)

    assert endpoint.asked == ["refresh-1"]
    for failure in [*outcomes, later.value]:
        assert isinstance(failure, TokenRefreshFailed)
        assert failure.reason == "OSError"
        assert 0 < failure.retry_in <= 60
        assert "refresh-1" not in str(shown_with_locals(failure))
    assert await _values(sessions) == ("access-1", "refresh-1")


async def test_all_who_waited_for_a_failed_refresh_get_its_error_also_without_a_wait(
    sessions: Sessions, engine: AsyncEngine, endpoint: Endpoint
) -> None:
    """They do not try one after the other."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.error = TimeoutError()
    asking = (get_valid_spotify_token(sessions, endpoint, backoff=no_wait) for _ in range(CALLERS))
    outcomes = await _outcomes(engine, endpoint, asking)

    assert {type(outcome) for outcome in outcomes} == {TokenRefreshFailed}
    assert len(endpoint.asked) < CALLERS / 5  # whoever first looked after the failure tries anew


async def test_after_the_wait_the_next_caller_tries_again_and_waits_grow_with_failures(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """Until a refresh succeeds, which forgets them."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.error = ConnectionError()
    counted: list[int] = []

    def backoff(failures: int) -> float:
        counted.append(failures)
        return 0.0

    for _ in range(3):
        with pytest.raises(TokenRefreshFailed, match="ConnectionError"):
            await get_valid_spotify_token(sessions, endpoint, backoff=backoff)
    endpoint.error = None
    token = await get_valid_spotify_token(sessions, endpoint, backoff=backoff)
    assert (token.access_token, token.failures, token.failure) == ("new-access-4", 0, None)

    await _expire(sessions)
    endpoint.error = ConnectionError()
    with pytest.raises(TokenRefreshFailed):
        await get_valid_spotify_token(sessions, endpoint, backoff=backoff)
    assert counted == [1, 2, 3, 1]


class _Broken(UserDict[str, object]):
    """An answer that cannot be read."""

    def __iter__(self) -> Iterator[str]:
        raise ZeroDivisionError("canary")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({"access_token": "canary"}, "expires_at: Field required, or expires_in"),
        ({"expires_in": 3600, "refresh_token": "canary"}, "access_token: Field required"),
        (
            {"access_token": "canary\0", "expires_in": 3600},
            "access_token: String should not contain NUL characters",
        ),
        ("canary", "token_data: Input should be a mapping"),
        (None, "token_data: Input should be a mapping"),
        (_Broken(), "ZeroDivisionError"),
    ],
)
async def test_an_answer_that_is_none_is_a_failure_that_names_the_field(
    sessions: Sessions, answer: Any, reason: str
) -> None:
    """And shows nothing of it."""
    await add_token(sessions, expires_at=EPOCH)

    async def refresh(refresh_token: str) -> Any:
        return answer

    with pytest.raises(TokenRefreshFailed) as caught:
        await get_valid_spotify_token(sessions, refresh)

    assert caught.value.reason == reason
    assert "canary" not in str(shown_with_locals(caught.value))


async def test_a_login_ends_the_wait_after_a_failure(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """It has a refresh token that has not failed."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.error = OSError()
    with pytest.raises(TokenRefreshFailed):
        await get_valid_spotify_token(sessions, endpoint, backoff=lambda _: 3600.0)
    endpoint.error = None
    await add_token(sessions, refresh_token="refresh-2", expires_at=EPOCH)

    assert (await get_valid_spotify_token(sessions, endpoint)).access_token == "new-access-2"
    assert endpoint.asked == ["refresh-1", "refresh-2"]


async def test_a_refresh_that_is_no_coroutine_function_fails_once(sessions: Sessions) -> None:
    """What is no function at all is refused before that."""
    await add_token(sessions, expires_at=EPOCH)

    def no_coroutine(refresh_token: str) -> Any:
        return {"access_token": "a", "expires_in": 3600}

    with pytest.raises(TokenRefreshFailed, match="TypeError"):
        await get_valid_spotify_token(sessions, no_coroutine)


async def test_a_grant_that_is_over_needs_a_new_login(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """Nobody asks the endpoint again until there is one."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.error = InvalidGrant()
    asking = (get_valid_spotify_token(sessions, endpoint) for _ in range(CALLERS))
    outcomes = await asyncio.gather(*asking, return_exceptions=True)

    assert {str(outcome) for outcome in outcomes} == {
        "log in again: the refresh token holds no more"
    }
    assert endpoint.asked == ["refresh-1"]

    endpoint.error = None
    await add_token(sessions, refresh_token="refresh-2", expires_at=EPOCH)
    token = await get_valid_spotify_token(sessions, endpoint)
    assert (token.needs_login, endpoint.asked) == (False, ["refresh-1", "refresh-2"])


async def test_a_token_that_is_good_is_returned_although_its_grant_is_over(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """Who asks for more than it has is told to log in, and nobody else."""
    await add_token(sessions)
    endpoint.error = InvalidGrant()
    with pytest.raises(LoginRequired):
        await get_valid_spotify_token(sessions, endpoint, leeway=HOUR * 24 * 3_000)

    assert (await get_valid_spotify_token(sessions, endpoint)).access_token == "access-1"
    assert endpoint.asked == ["refresh-1"]


async def test_the_life_of_a_token_counts_from_before_it_was_asked_for(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """However long the answer took, and the storing of it."""
    asking = await _asking(sessions, endpoint, lease=HOUR / 60)
    ends = (await _stored(sessions)).lease_expires_at
    assert ends is not None
    endpoint.may_answer.set()

    token = await asking
    assert token.expires_at == ends - HOUR / 60 + HOUR
    assert token.updated_at == ends - HOUR / 60


async def test_an_answer_may_say_when_the_token_expires(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """It is taken as it is."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.answers = {"expires_in": None, "expires_at": EXPIRES_AT}

    assert (await get_valid_spotify_token(sessions, endpoint)).expires_at == EXPIRES_AT


async def test_a_token_that_was_stored_too_late_is_refreshed_again(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """Its process was suspended for longer than the token lives; the refresh token still holds."""
    await add_token(sessions, expires_at=EPOCH)
    lease = await _taken(sessions, await _seen(sessions))
    assert lease is not None
    asking = asyncio.create_task(get_valid_spotify_token(sessions, endpoint))
    await asyncio.wait([asking], timeout=0.1)  # it looks at the lease
    late = {"access_token": "late", "refresh_token": "late-refresh", "expires_in": 3600}
    async with sessions.begin() as db:
        answer = SpotifyTokenData.model_validate(late)
        await leases.store(db, lease._replace(taken_at=EPOCH), answer)

    assert (await asking).access_token == "new-access-1"
    assert endpoint.asked == ["late-refresh"]


async def test_a_refresh_goes_on_when_its_caller_is_cancelled(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """Its answer may be the only refresh token that still holds, and the next caller gets it."""
    caller = await _asking(sessions, endpoint)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    next_caller = asyncio.create_task(get_valid_spotify_token(sessions, endpoint))
    endpoint.may_answer.set()

    assert (await next_caller).access_token == "new-access-1"
    assert endpoint.asked == ["refresh-1"]


async def test_a_program_that_ends_can_wait_for_what_its_callers_left(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """The end of the event loop would break it off."""
    caller = await _asking(sessions, endpoint)
    caller.cancel()
    finishing = asyncio.create_task(token_refresh.finish_refreshes())
    await asyncio.wait([caller])
    endpoint.may_answer.set()
    await finishing

    assert await _values(sessions) == ("new-access-1", "new-refresh-1")
    await token_refresh.finish_refreshes()  # nothing is left


async def test_a_login_during_a_refresh_wins(sessions: Sessions, endpoint: Endpoint) -> None:
    """What the refresh answers belongs to a login that is over, and is dropped."""
    asking = await _asking(sessions, endpoint)
    await add_token(sessions, access_token="access-2", refresh_token="refresh-2")
    endpoint.may_answer.set()

    assert (await asking).access_token == "access-2"
    assert await _values(sessions) == ("access-2", "refresh-2")


@pytest.mark.parametrize("logs_in_again", [True, False])
async def test_a_logout_during_a_refresh_stays_one(
    sessions: Sessions, endpoint: Endpoint, *, logs_in_again: bool
) -> None:
    """Nor does the answer overwrite the login of another user after it."""
    asking = await _asking(sessions, endpoint)
    async with sessions.begin() as db:
        await crud.delete_spotify_token(db)
    if logs_in_again:
        await add_token(sessions, access_token="another user's", refresh_token="refresh-2")
    endpoint.may_answer.set()

    if logs_in_again:
        assert (await asking).access_token == "another user's"
        assert await _values(sessions) == ("another user's", "refresh-2")
    else:
        with pytest.raises(LoginRequired, match="nobody is logged in"):
            await asking


@pytest.fixture
async def others(url: str) -> AsyncIterator[Sessions]:
    """Sessions of another process, as far as the library can tell."""
    other = database.create_engine(url, token_keyring=KEYRING)
    yield database.create_session_factory(other)
    await other.dispose()


async def _both_refresh(
    sessions: Sessions, others: Sessions, first: Endpoint, second: Endpoint
) -> tuple[asyncio.Task[SpotifyToken], asyncio.Task[SpotifyToken]]:
    """Let *second* be asked after the lease of *first* was over, and hold both answers back."""
    first.may_answer.clear()
    second.may_answer.clear()
    slow = asyncio.create_task(get_valid_spotify_token(sessions, first))
    await first.was_asked.wait()
    await _set(sessions, lease_expires_at=EPOCH)
    quick = asyncio.create_task(get_valid_spotify_token(others, second))
    await second.was_asked.wait()
    return slow, quick


async def test_what_was_seen_before_a_refresh_gives_no_right_to_another(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """Or whoever looked before it would present a refresh token that has been used."""
    await add_token(sessions, expires_at=EPOCH)
    seen = await _seen(sessions)
    await get_valid_spotify_token(sessions, endpoint)

    assert await _taken(sessions, seen) is None


async def _seen(sessions: Sessions) -> SpotifyToken:
    async with sessions.begin() as db:
        seen = await leases.look(db)
    assert seen is not None
    return seen.token


async def _taken(sessions: Sessions, seen: SpotifyToken) -> Lease | None:
    async with sessions.begin() as db:
        return await leases.take(db, seen, HOUR)


@pytest.mark.parametrize(
    "since",
    [{"lease_expires_at": EXPIRES_AT}, {"retry_at": EXPIRES_AT}, {"needs_login": True}],
    ids=lambda since: str(*since),
)
async def test_nobody_may_refresh_what_another_refreshes_or_could_not(
    sessions: Sessions, since: dict[str, Any]
) -> None:
    """Also not who looked before that; constraints decide, and not what was seen."""
    await add_token(sessions, expires_at=EPOCH)
    seen = await _seen(sessions)
    await _set(sessions, **since)
    assert await _taken(sessions, seen) is None

    await _set(sessions, lease_expires_at=None, retry_at=EPOCH, needs_login=False)
    assert await _taken(sessions, seen) is not None


@pytest.mark.parametrize("logs_in_again", [True, False])
async def test_who_lost_the_lease_cannot_end_that_of_another(
    sessions: Sessions, *, logs_in_again: bool
) -> None:
    """Nor can one that refreshed for a login that is over, although the versions are the same."""
    await add_token(sessions, expires_at=EPOCH)
    lost = await _taken(sessions, await _seen(sessions))
    if logs_in_again:
        async with sessions.begin() as db:
            await crud.delete_spotify_token(db)
        await add_token(sessions, expires_at=EPOCH)
    else:
        await _set(sessions, lease_expires_at=EPOCH)
    held = await _taken(sessions, await _seen(sessions))
    assert lost is not None
    assert held is not None
    assert (lost.version == held.version) is logs_in_again
    async with sessions.begin() as db:
        await leases.fail(db, lost, "late", 60.0)
        await leases.need_login(db, lost)

    token = await _stored(sessions)
    assert token.lease_expires_at is not None
    assert (token.failures, token.retry_at, token.needs_login) == (0, None, False)


async def test_who_died_is_replaced_once_its_lease_is_over(
    sessions: Sessions, others: Sessions
) -> None:
    """And if it was only slow, its older answer does not overwrite the newer one."""
    await add_token(sessions, expires_at=EPOCH)
    first, second = Endpoint(), Endpoint()
    second.answers = {"access_token": "newest", "refresh_token": "newest-refresh"}
    slow, quick = await _both_refresh(sessions, others, first, second)

    second.may_answer.set()
    assert (await quick).access_token == "newest"
    first.may_answer.set()
    assert (await slow).access_token == "newest"

    assert await _values(sessions) == ("newest", "newest-refresh")
    assert (first.asked, second.asked) == (["refresh-1"], ["refresh-1"])


async def test_a_failure_of_before_is_none_of_whoever_died(
    sessions: Sessions, others: Sessions, endpoint: Endpoint
) -> None:
    """The next caller tries: nothing is known of what became of that refresh."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.error = OSError()
    with pytest.raises(TokenRefreshFailed):
        await get_valid_spotify_token(sessions, endpoint, backoff=no_wait)
    assert await _taken(sessions, await _seen(sessions)) is not None
    endpoint.error = None
    asking = [
        asyncio.create_task(get_valid_spotify_token(each, endpoint)) for each in (sessions, others)
    ]
    await asyncio.wait(asking, timeout=0.1)  # they look at the lease
    await _set(sessions, lease_expires_at=EPOCH)

    assert {token.access_token for token in await asyncio.gather(*asking)} == {"new-access-2"}
    assert endpoint.asked == ["refresh-1", "refresh-1"]


async def test_an_answer_that_comes_late_does_not_end_the_lease_of_another(
    sessions: Sessions, others: Sessions
) -> None:
    """Whose answer is newer, and is stored too."""
    await add_token(sessions, expires_at=EPOCH)
    first, second = Endpoint(), Endpoint()
    second.answers = {"access_token": "newest", "refresh_token": "newest-refresh"}
    slow, quick = await _both_refresh(sessions, others, first, second)

    first.may_answer.set()
    assert (await slow).access_token == "new-access-1"
    assert (await _stored(sessions)).lease_expires_at is not None
    second.may_answer.set()
    assert (await quick).access_token == "newest"
    assert await _values(sessions) == ("newest", "newest-refresh")


async def test_an_answer_that_comes_late_counts_if_nothing_newer_is_stored(
    sessions: Sessions, others: Sessions
) -> None:
    """Where refresh tokens are rotated it is the only one that holds; what is newer follows."""
    await add_token(sessions, expires_at=EPOCH)
    first, second = Endpoint(), Endpoint()
    second.error = InvalidGrant()
    slow, quick = await _both_refresh(sessions, others, first, second)

    second.may_answer.set()
    with pytest.raises(LoginRequired):
        await quick
    first.may_answer.set()
    assert (await slow).access_token == "new-access-1"

    assert await _values(sessions) == ("new-access-1", "new-refresh-1")
    assert (await get_valid_spotify_token(others, second)).access_token == "new-access-1"


@pytest.mark.parametrize("wait", [-1, None, "1", float("nan"), 1e12])
async def test_a_backoff_that_is_no_time_is_refused_by_name(
    sessions: Sessions, endpoint: Endpoint, wait: Any
) -> None:
    """Once it is asked."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.error = OSError()

    with pytest.raises(InvalidValue, match=r"^backoff: "):
        await get_valid_spotify_token(sessions, endpoint, backoff=lambda _: wait)


async def test_a_refresh_that_is_refused_to_store_in_clear_does_not_ask_the_endpoint(
    url: str, endpoint: Endpoint
) -> None:
    """Where warnings are errors, as here, it is told before a refresh token is used up."""
    engine = database.create_engine(url)
    sessions = database.create_session_factory(engine)
    with pytest.warns(TokenInClear):
        await add_token(sessions, expires_at=EPOCH)
    again = database.create_engine(url)
    with pytest.raises(TokenInClear):
        await get_valid_spotify_token(database.create_session_factory(again), endpoint)
    assert endpoint.asked == []
    assert (await get_valid_spotify_token(sessions, endpoint)).access_token == "new-access-1"
    await engine.dispose()
    await again.dispose()


async def test_a_refresh_that_takes_too_long_is_a_failure(
    sessions: Sessions, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up as its lease ends, when another caller may ask."""
    await add_token(sessions, expires_at=EPOCH)
    endpoint.may_answer.clear()
    wait, patience = asyncio.wait, []

    async def waiting(tasks: Any, *, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - its signature
        patience.append(timeout or 0.0)
        return await wait(tasks, timeout=timeout)

    monkeypatch.setattr(asyncio, "wait", waiting)
    with pytest.raises(TokenRefreshFailed, match=r"longer than its lease of 0\.05 s"):
        await get_valid_spotify_token(sessions, endpoint, lease=0.05)

    assert sum(patience) == pytest.approx(0.05)


@pytest.fixture
async def impatient(url: str) -> AsyncIterator[Sessions]:
    """Sessions that wait for no lock."""
    at_once: dict[str, Any] = {"timeout": 0}
    if url.startswith("postgresql"):
        at_once = {"server_settings": {"lock_timeout": "10ms"}}
    engine = database.create_engine(url, token_keyring=KEYRING, connect_args=at_once)
    yield database.create_session_factory(engine)
    await engine.dispose()


async def test_an_answer_is_stored_although_the_database_is_busy_for_long(
    sessions: Sessions, impatient: Sessions, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh token in it may be the only one that holds."""
    monkeypatch.setattr(_transactions, "PAUSES", (0.0,))
    monkeypatch.setattr(token_refresh, "STORE_AGAIN_AFTER", (0.0, 0.01))
    await add_token(sessions, expires_at=EPOCH)
    endpoint.may_answer.clear()
    asking = asyncio.create_task(get_valid_spotify_token(impatient, endpoint))
    await endpoint.was_asked.wait()
    async with sessions.begin() as db, _refusals(impatient) as refused:
        await db.execute(update(SpotifyToken).values(scope="held"))
        endpoint.may_answer.set()
        await refused.wait()

    assert (await asking).access_token == "new-access-1"
    assert await _values(sessions) == ("new-access-1", "new-refresh-1")


@asynccontextmanager
async def _refusals(sessions: Sessions) -> AsyncIterator[asyncio.Event]:
    """Yield what is set once the database has refused more statements than one unit tries."""
    count, many = itertools.count(1), asyncio.Event()

    def refused(_: object) -> None:
        if next(count) > 5:
            many.set()

    engine = sessions.kw["bind"].sync_engine
    event.listen(engine, "handle_error", refused)
    yield many
    event.remove(engine, "handle_error", refused)


async def test_an_answer_that_cannot_be_stored_is_told_and_logged(
    sessions: Sessions, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where nobody waits for it any more; neither shows a secret."""
    asking = await _asking(sessions, endpoint)
    await _rename(sessions, "spotify_tokens", "away")
    endpoint.may_answer.set()
    with pytest.raises(SchemaMismatch) as caught:
        await asking
    await _rename(sessions, "away", "spotify_tokens")

    assert "could not be stored: the tables are missing" in caplog.text
    assert "new-access-1" not in f"{caplog.text} {shown_with_locals(caught.value)}"


async def _rename(sessions: Sessions, table: str, name: str) -> None:
    async with sessions.begin() as db:
        await db.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


async def test_a_token_that_cannot_be_decrypted_needs_a_new_login(
    sessions: Sessions, endpoint: Endpoint
) -> None:
    """The endpoint is not asked with something else."""
    await add_token(sessions, expires_at=EPOCH)
    async with sessions.begin() as db:
        await db.execute(text("UPDATE spotify_tokens SET refresh_token = access_token"))

    with pytest.raises(LoginRequired, match="was changed"):
        await get_valid_spotify_token(sessions, endpoint)
    assert endpoint.asked == []


async def test_a_missing_table_is_told_as_such(sessions: Sessions, endpoint: Endpoint) -> None:
    """By the error that every coroutine has for it."""
    async with sessions() as db:
        await db.execute(text("DROP TABLE spotify_tokens"))
        await db.commit()
    try:
        with pytest.raises(SchemaMismatch):
            await get_valid_spotify_token(sessions, endpoint)
    finally:
        async with sessions.begin() as db:
            await (await db.connection()).run_sync(Base.metadata.create_all)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"session_factory": None}, "session_factory"),
        ({"refresh": None}, "refresh"),
        ({"refresh": "https://accounts.spotify.com/api/token"}, "refresh"),
        *(({"leeway": value}, "leeway") for value in (-1, None, "60", True, float("nan"), 1e10)),
        *(({"lease": value}, "lease") for value in (0, -1, None, "60", True, float("inf"))),
        ({"backoff": 5}, "backoff"),
    ],
)
async def test_bad_arguments_are_refused_by_name(
    sessions: Sessions, endpoint: Endpoint, arguments: dict[str, Any], field: str
) -> None:
    """Before the database or the endpoint is asked."""
    good: dict[str, Any] = {"session_factory": sessions, "refresh": endpoint}
    with pytest.raises(InvalidValue, match=rf"^{field}: "):
        await get_valid_spotify_token(**{**good, **arguments})
