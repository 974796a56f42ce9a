"""The command that looks for what is wrong."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable
from typing import Final

from sqlalchemy import literal, select
from sqlalchemy.ext.asyncio import AsyncEngine

from zotify_async_crud import database, migrations
from zotify_async_crud._dialects import database_for
from zotify_async_crud._dialects.diagnosis import Finding, Verdict, failed, ok, warning
from zotify_async_crud.cli._database import check_exists, opened
from zotify_async_crud.cli._keys import KEYS, keyring
from zotify_async_crud.cli._options import HERE, AsJson, Target
from zotify_async_crud.cli._output import complain, say, show_json
from zotify_async_crud.cli._tokens import token_facts
from zotify_async_crud.encryption import use_keyring
from zotify_async_crud.errors import DatabaseUnavailable, ZotifyCrudError
from zotify_async_crud.migrations._checks import check_parts
from zotify_async_crud.models import Base

_INDENT: Final = " " * 9


async def doctor(*, target: Target = HERE, json: AsJson = False) -> int:
    """Look whether the database, its tables, this machine and the keys of the token fit together.

    It changes nothing, tells what mends what does not fit, and is done if no check has failed.
    """
    found = await _examined(target)
    if json:
        show_json(
            [
                {"check": name, **dataclasses.asdict(finding)}
                for name, finding in found.findings.items()
            ]
        )
    else:
        _tell(found.findings)
    if found.errors:
        raise found.errors[0]
    if failures := found.failures:
        complain(f"checks that failed: {', '.join(failures)}")
        return 1
    return 0


class _Examination:
    """The findings of one run, by the names of the checks."""

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}
        self.errors: list[ZotifyCrudError] = []

    async def look(self, name: str, check: Awaitable[Finding]) -> bool:
        """Keep what *check* finds, and return whether it will do."""
        try:
            with database.translated_errors(lost=DatabaseUnavailable):
                finding = await check
        except ZotifyCrudError as error:
            self.errors.append(error)
            finding = failed(str(error))
        self.findings[name] = finding
        return finding.verdict is not Verdict.FAILED

    @property
    def failures(self) -> list[str]:
        """The names of the checks that failed."""
        found = self.findings.items()
        return [name for name, finding in found if finding.verdict is Verdict.FAILED]


async def _examined(target: Target) -> _Examination:
    found = _Examination()
    async with opened(target, read_only=True) as engine:
        if not await found.look("database", _answer(engine)):
            return found
        checks = database_for(engine.dialect).checks(
            Base.metadata.tables, pgbouncer=target.pgbouncer
        )
        for name, check in checks.items():
            await found.look(name, check(engine))
        if await found.look("tables", _tables(engine)):
            await found.look("token", _token(engine))
    return found


async def _answer(engine: AsyncEngine) -> Finding:
    check_exists(engine)
    asked = time.perf_counter()
    async with engine.connect() as connection:
        await connection.execute(select(literal(1)))
    return ok(f"answers in {(time.perf_counter() - asked) * 1000:.0f} ms")


async def _tables(engine: AsyncEngine) -> Finding:
    await migrations.check_schema(engine)
    await check_parts(engine)
    revision = await migrations.current_revision(engine)
    if revision is None:
        return warning(
            "those of this version, without a revision", "run `zotify-async-crud migrate`"
        )
    return ok(f"those of this version, revision {revision}")


async def _token(engine: AsyncEngine) -> Finding:
    use_keyring(engine, keyring())
    async with database.create_session_factory(engine).begin() as db:
        token = await token_facts(db)
    if not token["logged_in"]:
        return ok("none: nobody is logged in")
    if token["problem"]:
        return failed(
            token["problem"], f"set {KEYS} to the keys that encrypted it, or log in again"
        )
    if token["in_clear"]:
        return warning(
            "kept in clear", f"set {KEYS}, and run `zotify-async-crud token rotate-keys`"
        )
    if token["needs_login"]:
        return warning("it cannot be refreshed any more", "log in again")
    return ok(f"encrypted by key {', '.join(token['encrypted_by'])}")


def _tell(findings: dict[str, Finding]) -> None:
    for name, finding in findings.items():
        say(f"{finding.verdict:8} {name}: {finding.detail}")
        if finding.remedy:
            say(f"{_INDENT}{finding.remedy}")
