"""The token as it is stored: encrypted, bound to its place, and readable with the right keys."""

from __future__ import annotations

import logging
import warnings
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.support.factories import Sessions, add_token, token_data
from tests.support.faults import only_sqlite
from tests.support.secrets import KEYRING, KEYS, shown_with_locals
from tests.unit.test_encryption import edited
from zotify_async_crud import crud, database, encryption, models
from zotify_async_crud.encryption import TokenInClear, TokenKeyring, generate_key, key_id
from zotify_async_crud.errors import InvalidValue, LoginRequired

KEY, OTHER_KEY, _ = KEYS
COLUMNS: Final = ("access_token", "refresh_token")


@pytest.fixture
async def clear(url: str) -> AsyncIterator[Sessions]:
    """Sessions on an engine without a key ring, which has said so."""
    engine = database.create_engine(url)
    encryption.is_first_in_clear(engine.dialect)
    yield database.create_session_factory(engine)
    await engine.dispose()


async def _stored(sessions: Sessions) -> dict[str, str]:
    async with sessions() as db:
        row = await db.execute(text(f"SELECT {', '.join(COLUMNS)} FROM spotify_tokens"))
        return dict(row.one()._mapping)  # noqa: SLF001 - SQLAlchemy's public name


async def _overwrite(sessions: Sessions, **values: str) -> None:
    """Write into the columns past the library."""
    settings = ", ".join(f"{name} = :{name}" for name in values)
    async with sessions.begin() as db:
        await db.execute(text(f"UPDATE spotify_tokens SET {settings}"), values)


async def _token(sessions: Sessions) -> tuple[str, str] | None:
    async with sessions.begin() as db:
        token = await crud.get_spotify_token(db)
        return None if token is None else (token.access_token, token.refresh_token)


async def test_the_columns_hold_envelopes_of_the_current_key(sessions: Sessions) -> None:
    """After a login, and after a refresh that keeps the refresh token."""
    await add_token(sessions)
    first = await _stored(sessions)
    await add_token(sessions, access_token="access-2", refresh_token=None)
    second = await _stored(sessions)

    for stored in (first, second):
        assert {key_id(value) for value in stored.values()} == {KEYRING.current_id}
        assert [value for value in stored.values() if "access" in value or "refresh" in value] == []
    assert [name for name in COLUMNS if first[name] == second[name]] == []
    assert await _token(sessions) == ("access-2", "refresh-1")


async def test_an_envelope_in_the_other_column_is_refused(sessions: Sessions) -> None:
    """Or the refresh token could be sent where the access token goes."""
    await add_token(sessions)
    stored = await _stored(sessions)
    await _overwrite(
        sessions, access_token=stored["refresh_token"], refresh_token=stored["access_token"]
    )

    with pytest.raises(LoginRequired, match="was changed"):
        await _token(sessions)


async def test_a_new_login_replaces_what_cannot_be_read(sessions: Sessions) -> None:
    """A refresh that would keep it is refused, and changes nothing."""
    await add_token(sessions)
    stored = await _stored(sessions)
    await _overwrite(sessions, refresh_token=stored["access_token"])
    damaged = await _stored(sessions)

    with pytest.raises(LoginRequired):
        await add_token(sessions, refresh_token=None)
    assert await _stored(sessions) == damaged
    await add_token(sessions, refresh_token="refresh-2")
    assert await _token(sessions) == ("access-1", "refresh-2")


async def test_a_tampered_column_is_never_a_wrong_token(sessions: Sessions) -> None:
    """Whatever is done to an envelope in the database, its reader gets the one clear error."""
    await add_token(sessions)
    stored = await _stored(sessions)
    attempts = settings(
        max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    changes: list[dict[str, str]] = []

    @attempts
    @given(column=st.sampled_from(COLUMNS), data=st.data())
    def collect(column: str, data: st.DataObject) -> None:
        changed = data.draw(edited(stored[column]))
        if changed and "\0" not in changed and encryption.is_sealed(changed):
            changes.append({**stored, column: changed})

    collect()
    assert len(changes) > 10
    for change in changes:
        await _overwrite(sessions, **change)
        with pytest.raises(LoginRequired):
            await _token(sessions)
    await _overwrite(sessions, **stored)
    assert await _token(sessions) == ("access-1", "refresh-1")


@only_sqlite
@pytest.mark.parametrize("column", COLUMNS)
async def test_what_is_no_text_is_told_by_no_error_and_no_log(
    sessions: Sessions, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite keeps any bytes as text, and its driver's error quotes those that it cannot decode."""
    caplog.set_level(logging.DEBUG)
    await add_token(sessions)
    async with sessions.begin() as db:
        damaged = "CAST(x'ff63616e617279' AS TEXT)"  # what ends with "canary"
        await db.execute(text(f"UPDATE spotify_tokens SET {column} = {damaged}"))
    with pytest.raises(LoginRequired) as caught:
        await _token(sessions)
    assert caught.value.reason == "the stored token was changed, and cannot be decrypted"
    told = [*shown_with_locals(caught.value), caplog.text]
    assert not [each for each in told if "canary" in each]
    async with sessions.begin() as db:
        with pytest.raises(LoginRequired):
            await crud.rotate_token_keys(db)


async def test_a_ring_without_the_key_reads_nothing(sessions: Sessions, url: str) -> None:
    """Nor does an engine without a ring: what is encrypted is never returned as it is."""
    await add_token(sessions)
    for ring, reason in ((TokenKeyring(OTHER_KEY), "not in the key ring"), (None, "no token_key")):
        engine = database.create_engine(url, token_keyring=ring)
        with pytest.raises(LoginRequired, match=reason):
            await _token(database.create_session_factory(engine))
        await engine.dispose()


async def test_the_older_keys_of_a_ring_read_what_they_encrypted(
    sessions: Sessions, engine: AsyncEngine
) -> None:
    """And what is written from then on is encrypted by the current one."""
    await add_token(sessions)
    ring = TokenKeyring(OTHER_KEY, KEY)
    encryption.use_keyring(engine, ring)

    assert await _token(sessions) == ("access-1", "refresh-1")
    await add_token(sessions, refresh_token=None)
    assert {key_id(value) for value in (await _stored(sessions)).values()} == {ring.current_id}


async def test_without_a_ring_the_token_is_kept_in_clear_and_one_warning_says_so(url: str) -> None:
    """The library works, but nobody can be unaware."""
    engine = database.create_engine(url)
    sessions = database.create_session_factory(engine)
    with pytest.warns(TokenInClear, match="token_keyring") as caught:
        await add_token(sessions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await add_token(sessions, refresh_token=None)

    assert caught[0].filename == __file__.replace(
        "conformance/test_token_encryption", "support/factories"
    )
    assert await _stored(sessions) == {"access_token": "access-1", "refresh_token": "refresh-1"}
    await engine.dispose()


@pytest.mark.parametrize("refresh_token", ["refresh-2", None], ids=["login", "refresh"])
async def test_what_is_in_clear_is_read_and_encrypted_when_it_is_next_written(
    clear: Sessions, sessions: Sessions, refresh_token: str | None
) -> None:
    """Also a refresh token that is kept."""
    await add_token(clear)
    assert await _token(sessions) == ("access-1", "refresh-1")

    await add_token(sessions, refresh_token=refresh_token)

    assert await _token(sessions) == ("access-1", refresh_token or "refresh-1")
    stored = await _stored(sessions)
    assert {key_id(value) for value in stored.values()} == {KEYRING.current_id}


async def test_rotating_the_keys_encrypts_what_another_key_has_or_none(
    clear: Sessions, sessions: Sessions, engine: AsyncEngine
) -> None:
    """Only then is there something to do, and the token stays what it is."""
    assert await _rotated(sessions) is False  # there is no token
    await add_token(clear)
    before = await _unencrypted(sessions)

    for ring in (KEYRING, TokenKeyring(OTHER_KEY, KEY)):
        encryption.use_keyring(engine, ring)
        assert await _rotated(sessions) is True
        assert {key_id(each) for each in (await _stored(sessions)).values()} == {ring.current_id}
        assert await _rotated(sessions) is False

    encryption.use_keyring(engine, TokenKeyring(OTHER_KEY))
    assert await _token(sessions) == ("access-1", "refresh-1")
    assert await _unencrypted(sessions) == before


async def _rotated(sessions: Sessions) -> bool:
    async with sessions.begin() as db:
        return await crud.rotate_token_keys(db)


async def _unencrypted(sessions: Sessions) -> dict[str, Any]:
    """Return the columns that are not encrypted."""
    table = models.Base.metadata.tables["spotify_tokens"]
    async with sessions() as db:
        row = (await db.execute(table.select())).one()._mapping  # noqa: SLF001 - the same
        return {name: value for name, value in row.items() if name not in COLUMNS}


async def test_there_is_nothing_to_rotate_to_without_a_ring(clear: Sessions) -> None:
    """One clear error."""
    async with clear.begin() as db:
        with pytest.raises(InvalidValue, match="token_keyring"):
            await crud.rotate_token_keys(db)


async def test_a_rotation_is_undone_by_the_callers_rollback(
    clear: Sessions, sessions: Sessions
) -> None:
    """It runs in the caller's transaction, as everything does."""
    await add_token(clear)
    async with sessions() as db:
        assert await crud.rotate_token_keys(db) is True
        await db.rollback()

    assert await _stored(sessions) == {"access_token": "access-1", "refresh_token": "refresh-1"}


async def test_an_engine_of_the_callers_own_takes_a_ring_and_gives_it_back(url: str) -> None:
    """With its copies that have other options; a wrong type is refused."""
    engine = create_async_engine(url)
    encryption.use_keyring(engine, KEYRING)
    sessions = database.create_session_factory(engine.execution_options(logging_token="x"))
    await add_token(sessions)
    assert await _token(sessions) == ("access-1", "refresh-1")

    encryption.use_keyring(engine, None)
    with pytest.raises(LoginRequired, match="no token_keyring"):
        await _token(sessions)
    with pytest.raises(InvalidValue, match=r"^token_keyring: "):
        encryption.use_keyring(engine, generate_key())  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match=r"^token_keyring: "):
        database.create_engine(url, token_keyring=generate_key())  # type: ignore[arg-type]
    await engine.dispose()


async def test_a_token_with_characters_of_envelopes_is_refused(sessions: Sessions) -> None:
    """In clear it could not be told from an envelope."""
    for name in COLUMNS:
        async with sessions.begin() as db:
            data = token_data(**{name: "a⠁"})
            with pytest.raises(InvalidValue, match=rf"^{name}: .*Braille"):
                await crud.create_or_update_spotify_token(db, data)
