"""The Spotify token: every outcome of every coroutine, and that its secrets stay secret."""

from __future__ import annotations

import datetime as dt
import logging
import traceback
from collections import UserDict
from collections.abc import Awaitable, Callable
from typing import Final, Literal

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from tests.support.factories import (
    EXPIRES_AT,
    Sessions,
    add_job,
    add_playlist,
    add_token,
    all_rows,
    database_now,
    token_data,
)
from tests.support.secrets import KEYRING
from zotify_async_crud import crud, database
from zotify_async_crud.errors import (
    ConstraintViolated,
    DatabaseError,
    InvalidValue,
    SchemaMismatch,
)
from zotify_async_crud.models import SpotifyToken

LATER: Final = EXPIRES_AT + dt.timedelta(hours=1)


def _values(token: SpotifyToken | None) -> tuple[str, str, dt.datetime] | None:
    if token is None:
        return None
    return token.access_token, token.refresh_token, token.expires_at


async def _stored(sessions: Sessions) -> tuple[str, str, dt.datetime] | None:
    async with sessions() as db:
        return _values(await crud.get_spotify_token(db))


# what is written and read


async def test_nobody_is_logged_in_at_first(sessions: Sessions) -> None:
    """No token is None, not an error."""
    assert await _stored(sessions) is None


async def test_a_login_stores_the_token(sessions: Sessions) -> None:
    """In the object that comes back, and in what any session reads later."""
    token = await add_token(sessions)

    assert _values(token) == ("access-1", "refresh-1", EXPIRES_AT)
    assert await _stored(sessions) == ("access-1", "refresh-1", EXPIRES_AT)


async def test_a_second_login_replaces_the_token(sessions: Sessions) -> None:
    """There is one row, ever."""
    await add_token(sessions)

    await add_token(sessions, access_token="a2", refresh_token="r2", expires_at=LATER)

    assert await _stored(sessions) == ("a2", "r2", LATER)
    assert len((await all_rows(sessions))["spotify_tokens"]) == 1


@pytest.mark.parametrize("absent", [True, False], ids=["absent", "None"])
async def test_a_refresh_without_a_refresh_token_keeps_the_stored_one(
    sessions: Sessions, *, absent: bool
) -> None:
    """Spotify sends a new refresh token only sometimes; losing the old one logs the user out."""
    await add_token(sessions)
    answer = token_data(access_token="access-2", refresh_token=None, expires_at=LATER)
    if absent:
        del answer["refresh_token"]

    async with sessions.begin() as db:
        token = await crud.create_or_update_spotify_token(db, answer)

    assert _values(token) == ("access-2", "refresh-1", LATER)
    assert await _stored(sessions) == ("access-2", "refresh-1", LATER)


async def test_a_first_token_without_a_refresh_token_is_refused(sessions: Sessions) -> None:
    """It could never be refreshed; nothing is written, and the transaction goes on."""
    async with sessions.begin() as db:
        with pytest.raises(InvalidValue) as caught:
            await crud.create_or_update_spotify_token(db, token_data(refresh_token=None))
        assert await crud.get_spotify_token(db) is None

    assert caught.value.field == "refresh_token"
    assert await _stored(sessions) is None


async def test_any_mapping_will_do_and_further_keys_are_ignored(sessions: Sessions) -> None:
    """What a token endpoint answers can be passed on as it is."""
    answer = UserDict(token_data(scope="user-library-read", token_type="Bearer", expires_in=3600))

    async with sessions.begin() as db:
        await crud.create_or_update_spotify_token(db, answer)

    assert await _stored(sessions) == ("access-1", "refresh-1", EXPIRES_AT)
    assert "scope" in answer


@pytest.mark.parametrize(
    "zone",
    [
        dt.UTC,
        dt.timezone(dt.timedelta(hours=5, minutes=45)),
        dt.timezone(-dt.timedelta(hours=9, minutes=30)),
        dt.timezone(dt.timedelta(hours=23, minutes=59)),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "moment",
    [
        EXPIRES_AT,
        dt.datetime(1970, 1, 1, tzinfo=dt.UTC),
        dt.datetime(1, 1, 3, microsecond=1, tzinfo=dt.UTC),
        dt.datetime(9999, 12, 29, 23, 59, 59, 999999, tzinfo=dt.UTC),
    ],
    ids=str,
)
async def test_a_moment_of_any_time_zone_comes_back_as_the_same_moment_in_utc(
    sessions: Sessions, moment: dt.datetime, zone: dt.timezone
) -> None:
    """To the microsecond, and aware."""
    await add_token(sessions, expires_at=moment.astimezone(zone))

    stored = await _stored(sessions)
    assert stored is not None
    assert stored[2] == moment
    assert stored[2].utcoffset() == dt.timedelta(0)


@pytest.mark.parametrize(
    "moment",
    [dt.datetime.min.replace(tzinfo=dt.UTC), dt.datetime.max.replace(tzinfo=dt.UTC)],
    ids=str,
)
async def test_the_first_and_the_last_moment_that_python_knows_can_be_stored(
    sessions: Sessions, moment: dt.datetime
) -> None:
    """No database's own end of time is in the way."""
    await add_token(sessions, expires_at=moment)

    stored = await _stored(sessions)
    assert stored is not None
    assert stored[2] == moment


@pytest.mark.parametrize("refresh_token", ["refresh-2", None], ids=["login", "refresh"])
async def test_scope_and_type_stay_unless_they_are_given(
    sessions: Sessions, refresh_token: str | None
) -> None:
    """A refresh answers them only if they have changed; each write has a login of its own."""
    first = await add_token(sessions, scope="user-library-read", token_type="Bearer")
    kept = await add_token(sessions, refresh_token=refresh_token, scope=None)
    new = await add_token(sessions, refresh_token=refresh_token, scope="", token_type="DPoP")

    assert (kept.scope, kept.token_type) == ("user-library-read", "Bearer")
    assert (new.scope, new.token_type) == ("", "DPoP")
    assert len({first.login_id, kept.login_id, new.login_id}) == 3
    assert first.version < kept.version < new.version


@pytest.mark.parametrize(
    ("answer", "moment"),
    [
        ({"expires_at": 1_900_000_000}, dt.datetime(2030, 3, 17, 17, 46, 40, tzinfo=dt.UTC)),
        ({"expires_at": 1.5, "expires_in": 9}, dt.datetime(1970, 1, 1, 0, 0, 1, 500_000, dt.UTC)),
    ],
)
async def test_expiry_may_be_seconds_since_the_epoch(
    sessions: Sessions, answer: dict[str, object], moment: dt.datetime
) -> None:
    """It wins over ``expires_in``, which counts from a moment that may be long ago."""
    assert (await add_token(sessions, **answer)).expires_at == moment


async def test_expiry_may_be_seconds_from_now(sessions: Sessions) -> None:
    """By the database's clock, also in a refresh."""
    for changes in ({}, {"refresh_token": None}):
        async with sessions.begin() as db:
            before = await database_now(db)
            data = token_data(expires_at=None, expires_in=3600, **changes)
            token = await crud.create_or_update_spotify_token(db, data)
            after = await database_now(db)
        assert before <= token.expires_at - dt.timedelta(hours=1) <= after


async def test_tokens_come_back_exactly_as_they_were(sessions: Sessions) -> None:
    """Long ones, and any character."""
    access, refresh = "ä\u0308'\"\\ \n💾" * 1_000, "-_.~+/=" * 2_000

    await add_token(sessions, access_token=access, refresh_token=refresh)

    assert await _stored(sessions) == (access, refresh, EXPIRES_AT)


async def test_an_update_shows_in_the_token_that_the_session_has_loaded(
    sessions: Sessions,
) -> None:
    """Within the transaction, and after another session's commit."""
    await add_token(sessions)
    async with sessions() as db:
        loaded = await crud.get_spotify_token(db)
        updated = await crud.create_or_update_spotify_token(
            db, token_data(access_token="access-2", refresh_token=None)
        )
        assert updated is loaded
        assert _values(loaded) == ("access-2", "refresh-1", EXPIRES_AT)
        await db.commit()

        await add_token(sessions, access_token="access-3", refresh_token="refresh-3")
        assert await crud.get_spotify_token(db) is loaded
        assert _values(loaded) == ("access-3", "refresh-3", EXPIRES_AT)


async def test_logging_out_deletes_the_token_and_nothing_else(sessions: Sessions) -> None:
    """A second time is no error, and the session that had loaded it sees it gone."""
    await add_job(sessions)
    await add_playlist(sessions)
    before = await all_rows(sessions)
    await add_token(sessions)

    async with sessions.begin() as db:
        token = await crud.get_spotify_token(db)
        assert token in db
        await crud.delete_spotify_token(db)
        assert await crud.get_spotify_token(db) is None
        assert token not in db
        await crud.delete_spotify_token(db)

    assert await all_rows(sessions) == before


async def test_after_a_logout_a_new_login_needs_its_own_refresh_token(sessions: Sessions) -> None:
    """The one before belongs to somebody who has left, maybe another user."""
    await add_token(sessions)
    async with sessions.begin() as db:
        await crud.delete_spotify_token(db)

        with pytest.raises(InvalidValue, match="refresh_token"):
            await crud.create_or_update_spotify_token(db, token_data(refresh_token=None))
        token = await crud.create_or_update_spotify_token(db, token_data(refresh_token="r2"))

    assert token.refresh_token == "r2"


@pytest.mark.parametrize("refresh_token", ["refresh-2", None])
async def test_storing_a_token_is_undone_by_the_callers_rollback(
    sessions: Sessions, refresh_token: str | None
) -> None:
    """Of a login and of a refresh."""
    await add_token(sessions)

    async with sessions() as db:
        await crud.create_or_update_spotify_token(
            db, token_data(access_token="access-2", refresh_token=refresh_token)
        )
        await db.rollback()

    assert await _stored(sessions) == ("access-1", "refresh-1", EXPIRES_AT)


async def test_a_first_login_and_a_logout_are_undone_by_the_callers_rollback(
    sessions: Sessions,
) -> None:
    """The caller owns the transaction."""
    async with sessions() as db:
        await crud.create_or_update_spotify_token(db, token_data())
        await db.rollback()
    assert await _stored(sessions) is None

    await add_token(sessions)
    async with sessions() as db:
        await crud.delete_spotify_token(db)
        await db.rollback()
    assert await _stored(sessions) is not None


# what is never shown

CANARY: Final = "canary"
SECRETS: Final = {"access_token": f"{CANARY}-access", "refresh_token": f"{CANARY}-refresh"}


async def test_a_token_does_not_show_its_secrets(sessions: Sessions) -> None:
    """Neither the object nor a row, a tuple or a dict that holds them; the values are there."""
    await add_token(sessions, **SECRETS)

    async with sessions() as db:
        token = await crud.get_spotify_token(db)
        row = (await db.execute(select(SpotifyToken.__table__))).one()
    assert token is not None

    holders = [token, row, tuple(row), row._asdict(), token.access_token, vars(token)]
    assert [shown for shown in map(repr, holders) if CANARY in shown] == []
    assert [shown for shown in (str(token), f"{token}", str(row)) if CANARY in shown] == []
    assert (str(token.access_token), token.refresh_token) == tuple(SECRETS.values())


@pytest.fixture
def quiet_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ``echo`` from giving the loggers a handler that would outlive the test."""
    for name in ("sqlalchemy.engine.Engine", "sqlalchemy.pool"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [logging.NullHandler()])


@pytest.mark.usefixtures("quiet_echo")
@pytest.mark.parametrize("echo", [True, "debug"])
async def test_no_log_shows_the_secrets(
    url: str, echo: Literal[True, "debug"], caplog: pytest.LogCaptureFixture
) -> None:
    """Not with echo, not with rows echoed, and not in the drivers' own debug logs."""
    caplog.set_level(logging.DEBUG)
    engine = database.create_engine(url, echo=echo, token_keyring=KEYRING)
    sessions = database.create_session_factory(engine)

    await add_token(sessions, **SECRETS)
    await add_token(sessions, access_token=f"{CANARY}-2", refresh_token=None)
    async with sessions.begin() as db:
        await crud.get_spotify_token(db)
        await crud.delete_spotify_token(db)
    await engine.dispose()

    assert "INSERT INTO spotify_tokens" in caplog.text
    assert ("Row (" in caplog.text) == (echo == "debug")
    assert CANARY not in caplog.text
    assert [record for record in caplog.records if CANARY in repr(record.__dict__)] == []


Step = Callable[[AsyncSession], Awaitable[object]]


async def _login(db: AsyncSession) -> object:
    return await crud.create_or_update_spotify_token(db, token_data(**SECRETS))


async def _refresh(db: AsyncSession) -> object:
    answer = token_data(access_token=SECRETS["access_token"], refresh_token=None)
    return await crud.create_or_update_spotify_token(db, answer)


async def _failure(
    sessions: Sessions, damage: str, step: Step, expected: type[DatabaseError]
) -> DatabaseError:
    """Return how *step* fails after *damage*, which a rollback repairs."""
    async with sessions() as db:
        for statement in damage.split(";"):
            await db.execute(text(statement))
        with pytest.raises(expected) as caught:
            await step(db)
    return caught.value


def _everything_shown(error: BaseException) -> str:
    """Return all that a log of *error* can hold: each link of its chain, and the traceback."""
    chain: list[BaseException] = [error]
    for link in chain:
        links = (link.__cause__, link.__context__)
        chain += [each for each in links if each is not None and each not in chain]
    texts = [f"{link!r} {link} {link.args!r} {vars(link)!r}" for link in chain]
    return "\n".join([*texts, *traceback.format_exception(error)])


@pytest.mark.parametrize(
    "step",
    [_login, _refresh, crud.get_spotify_token, crud.delete_spotify_token],
    ids=["login", "refresh", "get", "delete"],
)
async def test_a_failing_statement_does_not_show_the_secrets(
    sessions: Sessions, step: Step
) -> None:
    """The driver's error, with its parameters, is not even in the chain."""
    error = await _failure(sessions, "DROP TABLE spotify_tokens", step, SchemaMismatch)

    assert (error.__cause__, error.__context__) == (None, None)
    assert CANARY not in _everything_shown(error)
    assert "SchemaMismatch" in _everything_shown(error)


_CREATE_WITHOUT_ROOM: Final = """
    CREATE TABLE spotify_tokens (
        id INTEGER PRIMARY KEY,
        access_token TEXT CHECK (length(access_token) < 2),
        refresh_token TEXT,
        expires_at TIMESTAMP WITH TIME ZONE,
        scope TEXT,
        token_type TEXT,
        login_id TEXT,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
        version BIGINT DEFAULT 1,
        lease_version BIGINT DEFAULT 1,
        lease_expires_at TIMESTAMP WITH TIME ZONE,
        failures INTEGER DEFAULT 0,
        failure TEXT,
        retry_at TIMESTAMP WITH TIME ZONE,
        needs_login BOOLEAN DEFAULT false
    )
"""


@pytest.mark.parametrize("step", [_login, _refresh])
async def test_a_refused_row_does_not_show_the_secrets(sessions: Sessions, step: Step) -> None:
    """PostgreSQL's own message quotes the failing row."""
    damage = (
        "DROP TABLE spotify_tokens;"
        f"{_CREATE_WITHOUT_ROOM};"
        "INSERT INTO spotify_tokens (id, access_token, refresh_token, expires_at, login_id)"
        f" VALUES (1, 'a', '{CANARY}', '2031-02-03 04:05:06', '')"
    )

    error = await _failure(sessions, damage, step, ConstraintViolated)

    assert CANARY not in _everything_shown(error)
