"""Refuses bad arguments before any SQL, with one error that names the field and hides the value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, TypeVar

from pydantic import Field, Strict, TypeAdapter, ValidationError

from zotify_async_crud import schemas
from zotify_async_crud.errors import InvalidValue

T = TypeVar("T")

PAGE_MAX_LENGTH: Final = 1_000

ID: Final[TypeAdapter[str]] = TypeAdapter(schemas.Id)
NAME: Final[TypeAdapter[str]] = TypeAdapter(schemas.Name)
OPTIONAL_NAME: Final[TypeAdapter[str | None]] = TypeAdapter(schemas.Name | None)
ERROR: Final[TypeAdapter[str | None]] = TypeAdapter(schemas.ErrorMessage | None)
PROGRESS: Final[TypeAdapter[float | None]] = TypeAdapter(schemas.Progress | None)
STATUS: Final[TypeAdapter[schemas.DownloadJobStatus]] = TypeAdapter(schemas.Status)
TRACK_IDS: Final[TypeAdapter[list[str]]] = TypeAdapter(schemas.TrackIds)
TOKEN_DATA: Final = TypeAdapter(schemas.SpotifyTokenData)
LIMIT: Final[TypeAdapter[int]] = TypeAdapter(
    Annotated[int, Strict(), Field(ge=1, le=PAGE_MAX_LENGTH)]
)

# pydantic explains these in terms of a regular expression and of its own implementation
_REASONS: Final = {
    "string_pattern_mismatch": "String should not contain NUL characters",
    "string_unicode": "String should not contain lone surrogates",
}


def validated(field: str, adapter: TypeAdapter[T], value: object) -> T:
    """Return *value* as *adapter* reads it.

    Raises:
        InvalidValue: It does not fit. Nothing of the value is in the error or in its chain.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # outside the except block, so that no __context__ carries the value along
    reason = _REASONS.get(problem["type"], problem["msg"])
    raise InvalidValue(_place(field, problem["loc"]), reason)


def track_ids(value: object) -> list[str]:
    """Return *value* as the list of track ids that it must be; a set has no order, a str no ids."""
    if not isinstance(value, list | tuple):
        raise InvalidValue("track_ids", "Input should be a list of track ids")
    return validated("track_ids", TRACK_IDS, value)


def token_data(value: object) -> schemas.SpotifyTokenData:
    """Return *value* as the token data that it must be; an error names the key."""
    if not isinstance(value, Mapping):
        raise InvalidValue("token_data", "Input should be a mapping")
    return validated("token_data", TOKEN_DATA, dict(value))


def findable(value: object, field: str) -> bool:
    """Tell whether a row can have the id *value*; PostgreSQL refuses some even in a query."""
    if not isinstance(value, str):
        raise InvalidValue(field, "Input should be a valid string")
    try:
        ID.validate_python(value)
    except ValidationError:
        return False
    return True


def _place(field: str, location: tuple[str | int, ...]) -> str:
    for step in location:
        field = f"{field}[{step}]" if isinstance(step, int) else step
    return field
