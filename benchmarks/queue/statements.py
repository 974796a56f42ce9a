"""Counts the statements that this process sends."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

from sqlalchemy import Engine, event

_SHOWN: Final = 90
"""Characters of a statement that tell it from others."""

_counters: Final[list[Counter[str]]] = []


@contextmanager
def counting_statements() -> Iterator[Counter[str]]:
    """Yield a counter of the statements that SQLAlchemy, and those that SQLite's driver sends."""
    counter: Counter[str] = Counter()
    event.listen(Engine, "before_cursor_execute", _of_sqlalchemy)
    _counters.append(counter)
    yield counter
    _counters.remove(counter)
    event.remove(Engine, "before_cursor_execute", _of_sqlalchemy)


@contextmanager
def traced_sqlite() -> Iterator[None]:
    """Have the connections to SQLite that the block opens tell what is sent to them."""
    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(_count)
        return connection

    with patch("sqlite3.connect", traced):
        yield


def _of_sqlalchemy(connection: Any, _: Any, statement: str, *__: Any) -> None:
    if connection.dialect.name != "sqlite":  # whose driver tells of each itself
        _count(statement)


def _count(statement: str) -> None:
    for counter in _counters:
        counter[" ".join(statement.split())[:_SHOWN]] += 1
