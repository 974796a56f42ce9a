"""Runs commands on one database within this process, as quickly as tests want it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.secrets import KEYRING
from zotify_async_crud import cli, database

T = TypeVar("T")


class Shell:
    """The program, and a database to use it on."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url, self._capsys = url, capsys

    def run(self, *arguments: str) -> str:
        """Return what the command says, which is done and does not complain."""
        out, err = self.both(*arguments)
        assert err == ""
        return out

    def json(self, *arguments: str) -> Any:
        """Return the document that the command prints."""
        return json.loads(self.run(*arguments, "--json"))

    def complaint(self, *arguments: str, code: int) -> str:
        """Return the one line that a command says, which ends with *code*."""
        out, err = self.both(*arguments, code=code)
        assert out == ""
        [line] = err.splitlines()
        program, _, message = line.partition(": ")
        assert program == "zotify-async-crud"
        return message

    def both(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """Return what the command, which ends with *code*, writes to stdout and to stderr."""
        assert cli.main([*arguments, "--database-url", self.url]) == code
        said = self._capsys.readouterr()
        return said.out, said.err

    def do(self, action: Callable[[AsyncEngine], Awaitable[T]]) -> T:
        """Return what *action* does in the database."""

        async def done() -> T:
            engine = database.create_engine(self.url, token_keyring=KEYRING)
            try:
                return await action(engine)
            finally:
                await engine.dispose()

        return asyncio.run(done())

    def execute(self, statement: str) -> None:
        """Run plain SQL."""

        async def executed(engine: AsyncEngine) -> None:
            async with engine.begin() as connection:
                await connection.execute(text(statement))

        self.do(executed)
