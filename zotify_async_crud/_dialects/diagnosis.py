"""What a look at a database finds, and what mends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine


class Verdict(StrEnum):
    """Whether what was found will do."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found."""

    verdict: Verdict
    detail: str

    remedy: str | None = None
    """What mends it."""


Check: TypeAlias = Callable[[AsyncEngine], Awaitable[Finding]]
"""Looks at one thing, and changes nothing; a database error of it is a finding, too."""


def ok(detail: str) -> Finding:
    """Return that nothing is to be done."""
    return Finding(Verdict.OK, detail)


def warning(detail: str, remedy: str) -> Finding:
    """Return that something could be better."""
    return Finding(Verdict.WARNING, detail, remedy)


def failed(detail: str, remedy: str | None = None) -> Finding:
    """Return that something does not work, or will not."""
    return Finding(Verdict.FAILED, detail, remedy)


async def version(engine: AsyncEngine, *, oldest: tuple[int, ...]) -> Finding:
    """Compare the version of the server or library with the *oldest* that will do."""
    async with engine.connect():
        found: tuple[int, ...] = getattr(engine.dialect, "server_version_info", ())
    detail, needed = (".".join(map(str, parts)) for parts in (found, oldest))
    return ok(detail) if found >= oldest else failed(detail, f"install {needed} or newer")
