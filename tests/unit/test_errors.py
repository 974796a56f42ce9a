"""Errors: one family, what each carries, and what it lets a caller decide."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Final

import pytest

from zotify_async_crud import errors
from zotify_async_crud.errors import DatabaseError, ZotifyCrudError

CLASSES: Final = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if each.__module__ == errors.__name__
]
RETRY_SAFE: Final = {errors.TransactionConflict, errors.DatabaseUnavailable}

ERRORS: Final[list[tuple[ZotifyCrudError, str, dict[str, object]]]] = [
    (
        errors.InvalidValue("limit", "too big"),
        "limit: too big",
        {"field": "limit", "reason": "too big"},
    ),
    (
        errors.UnsupportedDatabase("mysql"),
        "'mysql' is not supported: use postgresql+asyncpg:// or sqlite+aiosqlite://",
        {"name": "mysql"},
    ),
    (
        errors.AdoptionRefused("it has no table tracks"),
        "the database cannot be adopted: it has no table tracks",
        {"reason": "it has no table tracks"},
    ),
    (errors.TransactionRequired("set this"), "set this", {"reason": "set this"}),
    (
        errors.TracksNotLoaded(),
        "this Playlist was loaded without its tracks: use crud.get_playlist",
        {},
    ),
    (errors.DownloadJobNotFound("j"), "there is no download job j", {"job_id": "j"}),
    (
        errors.DownloadJobExists(),
        "the track has a unique download job that is pending or in progress",
        {},
    ),
    (
        errors.DownloadJobClaimed("j"),
        "a worker holds download job j at the moment",
        {"job_id": "j"},
    ),
    (
        errors.LeaseLost("j", 3),
        "attempt 3 at download job j lost its lease",
        {"job_id": "j", "attempt": 3},
    ),
    (errors.PoolRunning(), "this worker pool is running already", {}),
    (
        errors.EnqueuerClosed(),
        "this enqueuer is not open: call it inside of its async with block",
        {},
    ),
    (
        errors.LoginRequired("nobody is logged in"),
        "log in again: nobody is logged in",
        {"reason": "nobody is logged in"},
    ),
    (errors.InvalidGrant(), "the token endpoint refuses the refresh token", {}),
    (
        errors.TokenRefreshFailed("OSError", 2.0),
        "the token could not be refreshed: OSError; retry in 2.0 s",
        {"reason": "OSError", "retry_in": 2.0},
    ),
    (
        errors.DatabaseError("Broken", "XX000"),
        "the database failed: Broken [XX000]",
        {"detail": "Broken", "code": "XX000"},
    ),
    (
        errors.DatabaseUnavailable("away"),
        "the database is unavailable: away",
        {"detail": "away", "code": None},
    ),
    (
        errors.SchemaMismatch("no such table", "42P01"),
        (
            "the tables are missing or of another version (see migrations.check_schema):"
            " no such table [42P01]"
        ),
        {"detail": "no such table", "code": "42P01"},
    ),
]


@pytest.mark.parametrize("error_class", CLASSES)
def test_every_error_belongs_to_the_family_and_says_what_to_do(
    error_class: type[Exception],
) -> None:
    """One except clause catches all, and each docstring is for the caller who caught it."""
    assert issubclass(error_class, ZotifyCrudError)
    assert (error_class.__doc__ or "").strip()


@pytest.mark.parametrize("error_class", CLASSES)
def test_only_what_may_pass_by_itself_is_worth_a_retry(error_class: type[ZotifyCrudError]) -> None:
    """A loop that trusts ``retry_safe`` must neither spin for ever nor do work twice."""
    assert error_class.retry_safe is (error_class in RETRY_SAFE)


def test_what_the_database_says_has_one_base() -> None:
    """What a driver raises comes out as one of these, and nothing else does."""
    assert {each for each in CLASSES if issubclass(each, DatabaseError)} == {
        errors.DatabaseError,
        errors.TransactionConflict,
        errors.DatabaseUnavailable,
        errors.OutcomeUnknown,
        errors.AccessRefused,
        errors.SchemaMismatch,
        errors.ConstraintViolated,
    }


def test_a_bad_argument_is_a_value_error_too() -> None:
    """Code that knows nothing of this library expects one."""
    assert issubclass(errors.InvalidValue, ValueError)


@pytest.mark.parametrize(("error", "message", "facts"), ERRORS)
def test_an_error_carries_its_facts_and_builds_its_message(
    error: ZotifyCrudError, message: str, facts: dict[str, object]
) -> None:
    """Nobody should have to parse a message."""
    assert str(error) == message
    assert vars(error) == facts


@pytest.mark.parametrize(("error", "message", "facts"), ERRORS)
def test_an_error_can_be_sent_to_another_process(
    error: ZotifyCrudError, message: str, facts: dict[str, object]
) -> None:
    """A pool of processes pickles what a task raises, and a copy is as good."""
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own
        assert type(again) is type(error)
        assert (str(again), vars(again), again.args) == (message, facts, error.args)
