"""Statements of the one Spotify token."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Double,
    Executable,
    Select,
    case,
    delete,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    type_coerce,
    update,
)

from zotify_async_crud._dialects import Database
from zotify_async_crud._dialects.types import UTCNow
from zotify_async_crud.encryption import StoredText
from zotify_async_crud.models import Base, SpotifyToken
from zotify_async_crud.schemas import SpotifyTokenData

TOKENS: Final = Base.metadata.tables[SpotifyToken.__tablename__]
NOW: Final = UTCNow()

_THE_TOKEN: Final = SpotifyToken.id == 1
_NO_SYNC: Final = {"synchronize_session": False}
_STORED: Final[dict[str, Any]] = {
    "updated_at": NOW,
    "failures": 0,
    "failure": None,
    "retry_at": None,
    "needs_login": False,
}
# whoever refreshes at the moment has begun with a token that is not the newest any more
_OUTDATING_LEASES: Final[dict[str, Any]] = {
    "version": SpotifyToken.lease_version + 1,
    "lease_version": SpotifyToken.lease_version + 1,
    "lease_expires_at": None,
    **_STORED,
}


class Lease(NamedTuple):
    """The right to refresh the token: it holds for one login, and each has a higher version."""

    login_id: str
    version: int
    taken_at: dt.datetime
    """When by the database's clock, from which the life of the new token is counted."""

    refresh_token: str


def get_spotify_token() -> Select[Any]:
    """Read the token."""
    return select(SpotifyToken).where(_THE_TOKEN)


def hold_spotify_token() -> Executable:
    """Read the token, and let nobody else write it before the transaction ends."""
    change_nothing = update(SpotifyToken).where(_THE_TOKEN).values(id=SpotifyToken.id)
    return change_nothing.returning(SpotifyToken).execution_options(**_NO_SYNC)


def log_in(database: Database, new: SpotifyTokenData, login_id: str) -> Executable:
    """Insert the token as that of a new login, or overwrite it."""
    insertion = database.insert(SpotifyToken).values(
        id=1, login_id=login_id, refresh_token=new.refresh_token, **_values(new, _expiry(new))
    )
    given = insertion.excluded
    overwritten = {
        **{key: given[key] for key in ("access_token", "refresh_token", "expires_at", "login_id")},
        **{key: func.coalesce(given[key], TOKENS.c[key]) for key in ("scope", "token_type")},
    }
    return insertion.on_conflict_do_update(
        index_elements=[SpotifyToken.id], set_={**overwritten, **_OUTDATING_LEASES}
    ).returning(SpotifyToken)


def overwrite(new: SpotifyTokenData, refresh_token: str, login_id: str) -> Executable:
    """Overwrite the token, whose refresh token is to stay."""
    return (
        update(SpotifyToken)
        .where(_THE_TOKEN)
        .values(
            refresh_token=refresh_token,
            login_id=login_id,
            **_kept(new, _expiry(new)),
            **_OUTDATING_LEASES,
        )
        .returning(SpotifyToken)
        .execution_options(**_NO_SYNC)
    )


def delete_spotify_token() -> Executable:
    """Delete the token."""
    return delete(SpotifyToken).where(_THE_TOKEN)


def stored_texts() -> Executable:
    """Read the access and the refresh token as they are stored."""
    columns = (TOKENS.c.access_token, TOKENS.c.refresh_token)
    return select(*(type_coerce(column, StoredText) for column in columns)).where(TOKENS.c.id == 1)


def store_again(token: SpotifyToken) -> Executable:
    """Write the values of *token* once more, which encrypts them afresh."""
    values = {"access_token": token.access_token, "refresh_token": token.refresh_token}
    return update(TOKENS).where(TOKENS.c.id == 1).values(values)


# who refreshes


def look() -> Executable:
    """Read the token and the database's clock."""
    return select(SpotifyToken, NOW).where(_THE_TOKEN)


def take_lease(seen: SpotifyToken, lease: dt.timedelta) -> Executable:
    """Take the lease, unless the token is not as it was *seen*, or nobody may refresh it now."""
    return (
        update(TOKENS)
        .where(
            _is_login(seen.login_id),
            TOKENS.c.version == seen.version,
            or_(TOKENS.c.lease_expires_at.is_(None), TOKENS.c.lease_expires_at <= NOW),
            or_(TOKENS.c.retry_at.is_(None), TOKENS.c.retry_at <= NOW),
            not_(TOKENS.c.needs_login),
        )
        .values(lease_version=TOKENS.c.lease_version + 1, lease_expires_at=_in(lease))
        .returning(TOKENS.c.lease_version, NOW)
    )


def refresh(lease: Lease, new: SpotifyTokenData) -> Executable:
    """Store what a refresh answered, unless something newer is stored."""
    is_last = TOKENS.c.lease_version == lease.version
    values = {
        "refresh_token": new.refresh_token or lease.refresh_token,
        "version": lease.version,
        "lease_expires_at": case((is_last, null()), else_=TOKENS.c.lease_expires_at),
        **_kept(new, new.expires_at or lease.taken_at + (new.expires_in or dt.timedelta())),
        # an answer may come late, and be stored later
        **_STORED,
        "updated_at": lease.taken_at,
    }
    is_newer = TOKENS.c.version < lease.version
    return update(TOKENS).where(_is_login(lease.login_id), is_newer).values(values)


def fail(lease: Lease, reason: str, retry_in: dt.timedelta) -> Executable:
    """Let nobody refresh before a moment, unless another has the lease by now."""
    values = {"failures": TOKENS.c.failures + 1, "failure": reason, "retry_at": _in(retry_in)}
    return _given_back(lease, values)


def need_login(lease: Lease) -> Executable:
    """Let nobody refresh any more, unless another has the lease by now."""
    return _given_back(lease, {"needs_login": True})


def _given_back(lease: Lease, values: dict[str, Any]) -> Executable:
    is_last = TOKENS.c.lease_version == lease.version
    is_newer = TOKENS.c.version < lease.version
    held = update(TOKENS).where(_is_login(lease.login_id), is_last, is_newer)
    return held.values(lease_expires_at=None, **values)


def _is_login(login_id: str) -> ColumnElement[bool]:
    return (TOKENS.c.id == 1) & (TOKENS.c.login_id == login_id)


def _values(new: SpotifyTokenData, expires_at: Any) -> dict[str, Any]:
    return {
        "access_token": new.access_token,
        "expires_at": expires_at,
        "scope": new.scope,
        "token_type": new.token_type,
    }


def _kept(new: SpotifyTokenData, expires_at: Any) -> dict[str, Any]:
    """Return the values but those that are not given, which stay as they are stored."""
    return {key: value for key, value in _values(new, expires_at).items() if value is not None}


def _expiry(new: SpotifyTokenData) -> Any:
    if new.expires_at is None and new.expires_in is not None:
        return _in(new.expires_in)
    return new.expires_at


def _in(time: dt.timedelta) -> UTCNow:
    return UTCNow(literal(time.total_seconds(), Double()))
