"""Refuses bad arguments before any SQL, with one error that names the field and hides the value."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, Strict, TypeAdapter, ValidationError

from zotify_async_crud import fields, schemas
from zotify_async_crud._secrets import Hidden
from zotify_async_crud.errors import InvalidValue

T = TypeVar("T")

PAGE_MAX_LENGTH: Final = 1_000
DELETE_MAX: Final = 100_000
ATTEMPT_MAX: Final = 2**31 - 1

ID: Final[TypeAdapter[str]] = TypeAdapter(fields.Id)
NAME: Final[TypeAdapter[str]] = TypeAdapter(fields.Name)
OPTIONAL_NAME: Final[TypeAdapter[str | None]] = TypeAdapter(fields.Name | None)
ERROR: Final[TypeAdapter[str | None]] = TypeAdapter(fields.ErrorMessage | None)
PROGRESS: Final[TypeAdapter[float | None]] = TypeAdapter(fields.Progress | None)
PROGRESS_ALWAYS: Final[TypeAdapter[float]] = TypeAdapter(fields.Progress)
STATUS: Final[TypeAdapter[schemas.DownloadJobStatus]] = TypeAdapter(schemas.Status)
TRACK_IDS: Final[TypeAdapter[list[str]]] = TypeAdapter(fields.TrackIds)
PLAYLISTS: Final = TypeAdapter(list[schemas.PlaylistData])
TRACKS: Final = TypeAdapter(list[schemas.TrackData])
TOKEN_DATA: Final = TypeAdapter(schemas.SpotifyTokenData)
LIMIT: Final[TypeAdapter[int]] = TypeAdapter(
    Annotated[int, Strict(), Field(ge=1, le=PAGE_MAX_LENGTH)]
)

LIMIT_OR_NONE: Final[TypeAdapter[int]] = TypeAdapter(
    Annotated[int, Strict(), Field(ge=0, le=PAGE_MAX_LENGTH)]
)
DELETED_AT_ONCE: Final[TypeAdapter[int]] = TypeAdapter(
    Annotated[int, Strict(), Field(ge=1, le=DELETE_MAX)]
)
ERROR_TEXT: Final[TypeAdapter[str]] = TypeAdapter(fields.ErrorMessage)
WORKER_ID: Final[TypeAdapter[str]] = TypeAdapter(fields.WorkerId)
LEASE: Final[TypeAdapter[dt.timedelta]] = TypeAdapter(fields.Lease)
DURATION: Final[TypeAdapter[dt.timedelta]] = TypeAdapter(fields.Duration)
OPTIONAL_DURATION: Final[TypeAdapter[dt.timedelta | None]] = TypeAdapter(fields.Duration | None)
ON_DUPLICATE: Final[TypeAdapter[schemas.OnDuplicate]] = TypeAdapter(schemas.DuplicatePolicy)
JOB: Final = TypeAdapter(schemas.DownloadJobCreate)
JOBS: Final = TypeAdapter(list[schemas.DownloadJobCreate])
_IDS: Final[TypeAdapter[list[str]]] = TypeAdapter(fields.Ids)
_BESIDE_TRACK: Final = attrgetter("priority", "available_at", "max_attempts", "unique")
_DEFAULTS: Final = _BESIDE_TRACK(schemas.DownloadJobCreate(track_id="any"))
_JOB_COLUMNS: Final[dict[str, TypeAdapter[Any]]] = {
    name: TypeAdapter(list[field.rebuild_annotation()])  # type: ignore[arg-type, misc]
    for name, field in schemas.DownloadJobCreate.model_fields.items()
}
_JOB_IDS: Final = TypeAdapter(list[fields.Id])
_WORKER_IDS: Final = TypeAdapter(list[fields.WorkerId])
_Attempt = Annotated[int, Strict(), Field(ge=0, le=ATTEMPT_MAX)]
_ATTEMPT: Final[TypeAdapter[int]] = TypeAdapter(_Attempt)
_ATTEMPTS: Final = TypeAdapter(list[_Attempt])
_OUTCOMES: Final = (  # no set: what is looked for may be unhashable
    schemas.DownloadJobStatus.COMPLETED,
    schemas.DownloadJobStatus.FAILED,
    schemas.DownloadJobStatus.PENDING,
)
_ERRORS: Final = TypeAdapter(list[fields.ErrorMessage | None])
_DELAYS: Final = TypeAdapter(list[Annotated[fields.Delay, Strict()] | None])
_PROGRESS_LIST: Final[TypeAdapter[list[float]]] = TypeAdapter(list[fields.Progress])

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
    finally:
        del value  # a traceback may show locals
    # outside the except block, so that no __context__ carries the value along
    reason = _REASONS.get(problem["type"], problem["msg"])
    raise InvalidValue(_place(field, problem["loc"]), reason)


def playlist(playlist_id: object, name: object, track_ids: object) -> schemas.PlaylistData:
    """Return the playlist that its parts make."""
    key = validated("playlist_id", ID, playlist_id)
    given = validated("playlist_name", NAME, name)
    found = validated("track_ids", TRACK_IDS, track_ids)
    return schemas.PlaylistData.model_construct(id=key, name=given, track_ids=found)


def playlists(value: object) -> list[schemas.PlaylistData]:
    """Return *value* as the list of playlists that it must be, each of them once."""
    found = _items("playlists", value, schemas.PlaylistData)
    valid = validated("playlists", PLAYLISTS, found)
    seen: set[str] = set()
    for place, each in enumerate(valid):
        if each.id in seen:
            raise InvalidValue(f"playlists[{place}].id", "Input should not be given twice")
        seen.add(each.id)
    return valid


def tracks(value: object) -> list[schemas.TrackData]:
    """Return *value* as the list of tracks that it must be."""
    return validated("tracks", TRACKS, _items("tracks", value, schemas.TrackData))


def flag(field: str, value: object) -> None:
    """Make sure that *value* is True or False."""
    if not isinstance(value, bool):
        raise InvalidValue(field, "Input should be True or False")


def token_data(given: Hidden) -> schemas.SpotifyTokenData:
    """Return what is *given* as the token data that it must be; an error names the key."""
    if not isinstance(given.content, Mapping):
        raise InvalidValue("token_data", "Input should be a mapping")
    return validated("token_data", TOKEN_DATA, dict(given.content))


def job(value: object) -> schemas.DownloadJobCreate:
    """Return *value* as the job that it must be; one made without validation may hold anything."""
    if not isinstance(value, schemas.DownloadJobCreate):
        raise InvalidValue("job", "Input should be a DownloadJobCreate")
    return validated("job", JOB, value)


def only_track_ids(value: object) -> list[str] | None:
    """Return the ids of tracks if *value* is a list of jobs that say nothing else, or else None."""
    if not isinstance(value, list | tuple):
        return None
    if all(isinstance(item, str) for item in value):
        found = list(value)
    elif all(_is_default(item) for item in value):
        found = [item.track_id for item in value]
    else:
        return None
    try:
        return _IDS.validate_python(found)
    except ValidationError:
        return None  # to look at each says which


def _is_default(item: object) -> bool:
    # the values count as well: a subclass may have other defaults
    return (
        isinstance(item, schemas.DownloadJobCreate)
        and item.model_fields_set == {"track_id"}
        and _BESIDE_TRACK(item) == _DEFAULTS
    )


def jobs(value: object) -> list[schemas.DownloadJobCreate]:
    """Return *value* as the list of jobs that it must be; the id of a track stands for one."""
    if isinstance(value, list | tuple):
        value = [_download_of(item) if isinstance(item, str) else item for item in value]
    found = _items("jobs", value, schemas.DownloadJobCreate)
    return found if _are_valid(found) else validated("jobs", JOBS, found)


def _download_of(track_id: str) -> schemas.DownloadJobCreate:
    return schemas.DownloadJobCreate.model_construct(track_id=track_id)


def _are_valid(jobs: list[schemas.DownloadJobCreate]) -> bool:
    """Check jobs column by column, for a fifth of what it takes one by one."""
    try:
        for name, column in _JOB_COLUMNS.items():
            column.validate_python(list(map(attrgetter(name), jobs)))
    except (ValidationError, AttributeError):
        return False
    return True


def finished_statuses(value: object) -> frozenset[schemas.DownloadJobStatus]:
    """Return *value* as the statuses of finished jobs that it must be."""
    if not isinstance(value, list | tuple | set | frozenset):
        raise InvalidValue("statuses", "Input should be a collection of DownloadJobStatus")
    found = frozenset(validated("statuses", STATUS, status) for status in value)
    if not found <= schemas.FINISHED:
        raise InvalidValue("statuses", "Input should be statuses of finished jobs")
    return found


def claims(value: object) -> list[schemas.Claim]:
    """Return *value* as the list of claims that it must be."""
    found = _items("claims", value, schemas.Claim)
    _check_claims("claims", found)
    return found


def claim(value: object) -> schemas.Claim:
    """Return *value* as the claim that it must be."""
    if not isinstance(value, schemas.Claim):
        raise InvalidValue("claim", "Input should be a Claim")
    validated("claim.job_id", ID, value.job_id)
    validated("claim.attempt", _ATTEMPT, value.attempt)
    validated("claim.worker_id", WORKER_ID, value.worker_id)
    return value


def settlements(value: object) -> list[schemas.Settlement]:
    """Return *value* as the list of settlements that it must be."""
    found = _items("settlements", value, schemas.Settlement)
    if not found:
        return found
    _check_claims("settlements", [settlement.claim for settlement in found])
    for place, settlement in enumerate(found):
        if settlement.outcome not in _OUTCOMES:
            reason = "Input should be 'completed', 'failed' or 'pending'"
            raise InvalidValue(f"settlements[{place}]", reason)
    validated("settlements", _ERRORS, [settlement.error for settlement in found])
    validated("settlements", _DELAYS, [settlement.retry_in for settlement in found])
    return found


def progress_of_claims(value: object) -> dict[schemas.Claim, float]:
    """Return *value* as the progress of claims that it must be."""
    if not isinstance(value, Mapping):
        raise InvalidValue("progress", "Input should be a mapping of claims to their progress")
    found = _items("progress", list(value), schemas.Claim)
    _check_claims("progress", found)
    shares: list[float] = validated("progress", _PROGRESS_LIST, list(value.values()))
    return dict(zip(found, shares, strict=True))


def _items(field: str, value: object, kind: type[T]) -> list[T]:
    if not isinstance(value, list | tuple) or isinstance(value, kind):  # a Claim is a tuple, too
        raise InvalidValue(field, f"Input should be a list of {kind.__name__}")
    for place, item in enumerate(value):
        if not isinstance(item, kind):
            raise InvalidValue(f"{field}[{place}]", f"Input should be a {kind.__name__}")
    return list(value)


def _check_claims(field: str, found: Sequence[schemas.Claim]) -> None:
    for place, claim in enumerate(found):
        if not isinstance(claim, schemas.Claim):
            raise InvalidValue(f"{field}[{place}]", "Input should be a Claim")
    validated(field, _JOB_IDS, [claim.job_id for claim in found])
    validated(field, _ATTEMPTS, [claim.attempt for claim in found])
    validated(field, _WORKER_IDS, [claim.worker_id for claim in found])


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
        if isinstance(step, int):
            field = f"{field}[{step}]"
        else:
            field = f"{field}.{step}" if field.endswith("]") else step
    return field
