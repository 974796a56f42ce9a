"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

from cyclopts import Parameter, Token

DATABASE_URL: Final = Parameter(
    help="sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE.",
    env_var="ZOTIFY_DATABASE_URL",
)
_SCHEMA: Final = Parameter(
    help="The PostgreSQL schema with the tables.", env_var="ZOTIFY_DATABASE_SCHEMA"
)
_PGBOUNCER: Final = Parameter(
    help="PgBouncer, or a pooler like it, hands out connections for one transaction at a time.",
    env_var="ZOTIFY_DATABASE_PGBOUNCER",
    negative=(),
)


def whole(_: object, tokens: Sequence[Token]) -> int:
    """Read a number as it is, as the converter of an option; cyclopts would round a fraction."""
    return int(tokens[0].value)


@Parameter(name="*")
@dataclass(frozen=True)
class Target:
    """The database that a command is about."""

    database_url: Annotated[str, DATABASE_URL] = "sqlite:///zotify.db"
    schema: Annotated[str | None, _SCHEMA] = None
    pgbouncer: Annotated[bool, _PGBOUNCER] = False


HERE: Final = Target()
"""What commands are about by default."""

AsJson: TypeAlias = Annotated[
    bool, Parameter(name="--json", negative=(), help="Print one JSON document.")
]
Yes: TypeAlias = Annotated[bool, Parameter(name="--yes", negative=(), help="Do not ask.")]
