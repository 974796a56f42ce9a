"""The tokens of an adopted database: they show in no log, error or report."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.adoption.original import SQL, create_original, execute, insert, job, token
from tests.adoption.test_interruptions import failing_at
from tests.adoption.test_odd_rows import only_sqlite
from tests.support.factories import statements_sent
from tests.support.secrets import KEYRING, shown_with_locals
from zotify_async_crud import database, encryption
from zotify_async_crud.adoption import adopt
from zotify_async_crud.errors import AdoptionRefused

CANARY: Final = "BQD-canary"
TOKENS: Final = [
    token(number, access_token=f"{CANARY}-a{number}", refresh_token=f"{CANARY}-r{number}")
    for number in (1, 2)
]


@pytest.fixture
def quiet_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep ``echo`` from giving the loggers a handler that would outlive the test."""
    for name in ("sqlalchemy.engine.Engine", "sqlalchemy.pool"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [logging.NullHandler()])


@pytest.fixture(params=[True, False], ids=["key ring", "in clear"])
async def filled(
    request: pytest.FixtureRequest, empty_url: str, quiet_echo: None
) -> AsyncIterator[AsyncEngine]:
    """An engine that echoes all, on the original's database with two tokens in it."""
    engine = database.create_engine(empty_url)
    await create_original(engine)
    await insert(engine, "spotify_tokens", *TOKENS)
    await insert(engine, "download_jobs", job())
    await engine.dispose()
    keyring = KEYRING if request.param else None
    engine = database.create_engine(empty_url, echo="debug", token_keyring=keyring)
    encryption.is_first_in_clear(engine.dialect)  # it has been said
    yield engine
    await engine.dispose()


async def test_no_log_shows_a_token(filled: AsyncEngine, caplog: pytest.LogCaptureFixture) -> None:
    """Not with echo, not with rows echoed, and not in the drivers' own debug logs."""
    caplog.set_level(logging.DEBUG)

    with statements_sent(filled) as sent:
        report = await adopt(filled)

    assert report.token
    assert "INSERT INTO spotify_tokens" in caplog.text
    assert "Row (" in caplog.text
    assert CANARY not in caplog.text
    assert [record for record in caplog.records if CANARY in repr(record.__dict__)] == []
    assert CANARY not in repr(report)
    assert [statement for statement in sent if CANARY in repr(statement)] == []


async def test_no_token_is_copied_to_a_file(filled: AsyncEngine) -> None:
    """The databases keep what is temporary in files that nobody overwrites."""
    with statements_sent(filled) as sent:
        await adopt(filled)

    copies = [statement for statement, _ in sent if statement.startswith("CREATE TEMPORARY TABLE")]
    assert len(copies) == 4
    assert [copy for copy in copies if "token" in copy] == []


async def test_no_error_shows_a_token(filled: AsyncEngine) -> None:
    """Not in its chain, nor in the local variables of its frames, whenever it comes."""
    for words in (
        "SELECT id, user_id",
        "\nDROP TABLE spotify_tokens",
        "INSERT INTO spotify_tokens",
    ):
        with (
            failing_at(filled, words, RuntimeError("enough")),
            pytest.raises(RuntimeError) as caught,
        ):
            await adopt(filled)

        assert [line for line in shown_with_locals(caught.value) if CANARY in line] == []


@pytest.mark.parametrize(
    "damage",
    [
        SQL(f"CAST(x'{CANARY.encode().hex()}ff' AS TEXT)"),
        SQL(f"x'{CANARY.encode().hex()}'"),
        SQL(f"'{CANARY}' || char(0)"),
    ],
)
@only_sqlite
async def test_no_refusal_shows_a_token(filled: AsyncEngine, damage: SQL) -> None:
    """A driver that cannot read a text shows it; another kind of value is no token."""
    await execute(
        filled,
        f"UPDATE spotify_tokens SET refresh_token = {damage}",
        "UPDATE download_jobs SET status = 'queued'",
    )

    with pytest.raises(AdoptionRefused) as caught:
        await adopt(filled)

    assert [line for line in shown_with_locals(caught.value) if CANARY in line] == []


@only_sqlite
async def test_no_token_in_clear_is_left_in_the_file(filled: AsyncEngine) -> None:
    """Also where SQLite does not overwrite by itself what is deleted; what is kept is there."""
    is_sealed = encryption.keyring_of(filled.dialect) is not None
    path = Path(str(filled.url.database))

    @event.listens_for(filled.sync_engine, "connect")
    def overwrite_nothing(connection: Any, _: object) -> None:
        connection.cursor().execute("PRAGMA secure_delete = OFF")

    await adopt(filled)
    async with filled.connect() as connection:
        as_before = await connection.exec_driver_sql("PRAGMA secure_delete")
        assert as_before.scalar_one() == 0
    await filled.dispose()

    stored = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    assert sorted(set(re.findall(rb"BQD-canary-..", stored))) == (
        [] if is_sealed else [b"BQD-canary-a2", b"BQD-canary-r2"]
    )
