"""Bad input: refused before any SQL, on both databases alike, by an error that names the field."""

from __future__ import annotations

import base64
import datetime as dt
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeVar

import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from tests.support.factories import (
    EXPIRES_AT,
    GOOD,
    Sessions,
    add_some_of_everything,
    all_rows,
    completed,
    failed,
    ids,
    new_claim,
    new_job,
    playlist_data,
    short,
    statements_sent,
    token_data,
)
from zotify_async_crud import crud, fields, schemas
from zotify_async_crud.errors import InvalidValue
from zotify_async_crud.models import DownloadJob, Playlist, Track
from zotify_async_crud.schemas import Claim, DownloadJobStatus, Settlement

M = TypeVar("M", bound=pydantic.BaseModel)


class Bad(NamedTuple):
    """One bad value for one argument; the error names *field*, or the argument."""

    coroutine: str
    argument: str
    value: object
    field: str = ""


def _cursor(position: str) -> str:
    """Return a cursor as a page writes it, of a position that no page wrote."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def _built(**fields: object) -> schemas.DownloadJobCreate:
    """Return a job to create that pydantic has not looked at."""
    fields = {"track_id": "t", **fields}
    return schemas.DownloadJobCreate.model_construct(**fields)  # type: ignore[arg-type]


def _zone(hours: int) -> dt.timezone:
    return dt.timezone(dt.timedelta(hours=hours))


NO_STRINGS: Final = (None, 5, 5.5, True, b"canary", ["canary"], object())
NO_TEXT: Final = ("nul\0canary", "\0", "lone\ud800canary", "\udfff")
NO_ID_TEXTS: Final = ("", "x" * 256, "💾" * 256, *NO_TEXT)
NO_IDS: Final = (*NO_STRINGS, *NO_ID_TEXTS)
NO_NAMES: Final = (*NO_STRINGS, "n" * 1_001, *NO_TEXT)
NO_ERRORS: Final = (*NO_STRINGS[1:], "e" * 65_537, *NO_TEXT)
NO_TOKENS: Final = (*NO_STRINGS[1:], "", "k" * 16_385, *NO_TEXT)
NO_STATUS: Final = (
    5,
    True,
    "",
    "paused",
    "canceled",
    "PENDING",
    " pending",
    "pending\0",
    b"pending",
    ["canary"],
)
NO_PROGRESS: Final = (
    *(-0.1, 1.1, -1, 2, 10**400, math.nan, math.inf, -math.inf, math.nextafter(1, 2), -5e-324),
    *(True, False, "0.5", b"0.5", [0.5], 1j),
)
NO_MOMENT: Final = (
    *(None, 1_900_000_000, 1.9e9, "2031-02-03T04:05:06Z", dt.date(2031, 2, 3), dt.time(4, 5)),
    EXPIRES_AT.replace(tzinfo=None),
    dt.datetime.max.replace(tzinfo=_zone(-1)),
    dt.datetime.min.replace(tzinfo=_zone(1)),
)
NO_EXPIRY: Final = (
    *NO_MOMENT[:1],
    *NO_MOMENT[3:],
    *(True, math.nan, math.inf, -math.inf, 10**12, -(10**12), 10**30, 1e300),
)
NO_LIMIT: Final = (
    None,
    0,
    -1,
    1_001,
    2**63,
    10**30,
    2.0,
    2.5,
    True,
    False,
    "5",
    b"5",
    math.nan,
    [5],
)
NO_CURSORS: Final = (
    *(5, True, b"YQ", ["YQ"], "", " ", "next", "ä", "\0", "\ud800", "a" * 10_000, "====", "YQ=="),
    _cursor("2031-02-03T04:05:06 key"),  # naive
    _cursor("2031-02-03T04:05:06+05:00 key"),  # not as it is written
    _cursor("9999-12-31T23:59:59-05:00 key"),  # out of range in UTC
    _cursor("0001-01-01T00:00:00+05:00 key"),
    _cursor("2031-13-03T04:05:06+00:00 key"),
    _cursor("2031-02-03T04:05:06+00:00"),  # no id
    _cursor("key"),
    _cursor("2031-02-03T04:05:06+00:00 nul\0canary"),
    _cursor("2031-02-03T04:05:06+00:00 key") + "=",
    _cursor("2031-02-03T04:05:06+00:00 key") + "\n",
)
NO_PLAYLIST_CURSORS: Final = (
    *NO_CURSORS[:13],
    _cursor(""),
    _cursor("nul\0canary"),
    _cursor("x" * 256),
    _cursor("p") + "=",
    _cursor("p") + "\n",
)
NO_SIZE: Final = (*NO_LIMIT[:1], *NO_LIMIT[2:])
NO_DURATION: Final = (
    *(-1, -0.001, math.nan, math.inf, -math.inf, 10**400, 10**12, 315_360_000.1),
    *(True, False, "60", "PT60S", b"60", [60], 1j, dt.time(1), EXPIRES_AT),
    *(dt.timedelta(microseconds=-1), dt.timedelta.max, dt.timedelta.min, dt.timedelta(days=3_651)),
)
NO_LEASE: Final = (*NO_DURATION, None, 0, 0.0, -0.0, 1e-9, dt.timedelta(0))
NO_PRIORITY: Final = (
    None,
    -32_769,
    32_768,
    10**30,
    0.5,
    1.0,
    math.nan,
    True,
    False,
    "5",
    b"5",
    [5],
)
NO_ATTEMPTS: Final = (None, 0, -1, 32_768, 10**30, 0.5, 1.0, math.nan, True, False, "5", b"5", [5])
NO_TOKENS_OF_CLAIMS: Final = (None, -1, 2**31, 10**30, 0.5, 1.0, math.nan, True, "5", b"5", [5])
NO_JOBS: Final[dict[str, tuple[object, ...]]] = {
    "track_id": NO_IDS,
    "priority": NO_PRIORITY,
    "available_at": NO_MOMENT[1:],
    "max_attempts": NO_ATTEMPTS,
    "unique": (None, 0, 1, 5, "true", "yes", b"true", [True]),
}
"""Bad values of each field of a job to create."""
NO_CLAIMS: Final[dict[str, tuple[object, ...]]] = {
    "job_id": NO_IDS,
    "attempt": NO_TOKENS_OF_CLAIMS,
    "worker_id": NO_IDS,
}
"""Bad values of each field of a claim by which it is found."""
NO_OBJECTS: Final = (None, "canary", 5, {"job_id": "canary"}, ("canary", 1, "w"), object())
"""What is neither a job, nor a claim, nor a settlement."""
NO_LISTS: Final = (None, 5, "canary", b"canary", {"a", "b"}, {"a": 1}, frozenset("a"), iter("ab"))


NO_PLAYLISTS: Final[dict[str, tuple[object, ...]]] = {
    "id": NO_IDS,
    "name": NO_NAMES,
    "snapshot_id": (*NO_STRINGS[1:], "", "s" * 1_001, *NO_TEXT),
    "track_ids": NO_LISTS,
}
"""Bad values of each field of a playlist to sync."""
NO_TRACKS: Final[dict[str, tuple[object, ...]]] = {
    "id": NO_IDS,
    "name": NO_NAMES[1:],
    "artist": NO_NAMES[1:],
    "album": NO_NAMES[1:],
}
"""Bad values of each field of what is known of a track."""


def _unchecked(model: M, name: str, value: object) -> M:
    """Return *model* with a value that pydantic has not looked at."""
    return model.model_copy(update={name: value})


def _bad_claims() -> Iterator[tuple[str, object]]:
    """Yield what is no claim, and claims that cannot be, with the field that is wrong."""
    yield from (("", value) for value in (*NO_OBJECTS, completed(new_claim())))
    for name, values in NO_CLAIMS.items():
        yield from ((f".{name}", new_claim(**{name: value})) for value in values)


def _bad_settlements() -> Iterator[object]:
    """Yield what is no settlement, and settlements that cannot be."""
    yield from (*NO_OBJECTS, new_claim())
    yield from (completed(claim) for _, claim in _bad_claims())  # type: ignore[arg-type]
    outcomes: Any = (*NO_STATUS, None, *(set(DownloadJobStatus) - OUTCOMES))
    yield from (Settlement(new_claim(), outcome) for outcome in outcomes)
    yield from (failed(new_claim(), error) for error in NO_ERRORS)  # type: ignore[arg-type]
    yield from (failed(new_claim(), retry_in=delay) for delay in NO_DURATION)  # type: ignore[arg-type]


def _is_hashable(value: object) -> bool:
    """Tell whether *value*, with all that is in it, can be the key of a mapping."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


OTHERS: Final = [playlist_data(playlist_id) for playlist_id in ("a", "b", "c")]
_OTHER: Final = new_claim(job_id="other")
OUTCOMES: Final = {DownloadJobStatus.COMPLETED, DownloadJobStatus.FAILED, DownloadJobStatus.PENDING}
"""How an attempt can end."""

BAD: Final[list[Bad]] = [
    *(
        Bad("create_download_job", "job", value)
        for value in (None, "t", {"track_id": "t"}, DownloadJob(track_id="t"), object())
    ),
    Bad("create_download_job", "job", schemas.DownloadJobCreate.model_construct(), "track_id"),
    *(
        Bad("create_download_job", "job", _built(**{name: value}), name)
        for name, values in NO_JOBS.items()
        for value in values
    ),
    *(
        Bad("create_download_job", "on_duplicate", value)
        for value in (None, 5, True, "", "EXISTING", "ignore", b"existing", ["canary"], "skip")
    ),
    *(Bad("create_download_jobs", "jobs", value) for value in (*NO_LISTS, new_job())),
    *(
        Bad("create_download_jobs", "jobs", [*[new_job()] * 3, value, new_job()], "jobs[3]")
        for value in (*NO_STRINGS, {"track_id": "t"}, DownloadJob(track_id="t"))
    ),
    *(
        Bad("create_download_jobs", "jobs", [*["t"] * 3, value, *others], "jobs[3].track_id")
        for value in NO_ID_TEXTS
        for others in ([], [new_job()])
    ),
    *(
        Bad(
            "create_download_jobs",
            "jobs",
            [*[new_job()] * 3, _built(**{name: value}), new_job()],
            f"jobs[3].{name}",
        )
        for name, values in NO_JOBS.items()
        for value in values
    ),
    *(
        Bad("create_download_jobs", "on_duplicate", value)
        for value in (None, 5, True, "", "EXISTING", "ignore", b"existing", ["canary"])
    ),
    *(
        Bad(coroutine, "worker_id", value)
        for coroutine in ("claim_download_jobs", "exchange_download_jobs", "get_download_claims")
        for value in NO_IDS
    ),
    *(Bad("claim_download_jobs", "limit", value) for value in NO_LIMIT),
    *(Bad("exchange_download_jobs", "limit", value) for value in NO_SIZE),
    *(
        Bad(coroutine, "lease", value)
        for coroutine in ("claim_download_jobs", "exchange_download_jobs", "renew_download_leases")
        for value in NO_LEASE
    ),
    *(
        Bad(coroutine, "claims", value)
        for coroutine in ("renew_download_leases", "release_download_jobs")
        for value in (*NO_LISTS, new_claim(), {new_claim()}, {new_claim(): 0.5})
    ),
    *(
        Bad(coroutine, "claims", [*[new_claim()] * 3, value, new_claim()], "claims[3]")
        for coroutine in ("renew_download_leases", "release_download_jobs")
        for _, value in _bad_claims()
    ),
    *(
        Bad(coroutine, "claim", value, f"claim{field}")
        for coroutine in ("complete_download_job", "fail_download_job")
        for field, value in _bad_claims()
    ),
    *(Bad("fail_download_job", "error", value) for value in (None, *NO_ERRORS)),
    *(Bad("fail_download_job", "retry_in", value) for value in NO_DURATION),
    *(
        Bad("exchange_download_jobs", "settlements", value)
        for value in (*NO_LISTS, completed(new_claim()), {completed(new_claim())})
    ),
    *(
        Bad(
            "exchange_download_jobs",
            "settlements",
            [*[completed(new_claim())] * 3, value, completed(new_claim())],
            "settlements[3]",
        )
        for value in _bad_settlements()
    ),
    *(
        Bad("report_download_progress", "progress", value)
        for value in (None, 5, "canary", [new_claim()], {new_claim()}, [(new_claim(), 0.5)])
    ),
    *(
        Bad("report_download_progress", "progress", {_OTHER: 0.5, value: 0.5}, "progress[1]")
        for _, value in _bad_claims()
        if _is_hashable(value)
    ),
    *(
        Bad(
            "report_download_progress",
            "progress",
            {_OTHER: 0.5, new_claim(): value},
            "progress[1]",
        )
        for value in (None, *NO_PROGRESS)
    ),
    *(Bad("cancel_download_job", "job_id", value) for value in NO_STRINGS),
    *(Bad("prune_download_jobs", "older_than", value) for value in (None, *NO_DURATION)),
    *(
        Bad("prune_download_jobs", "limit", value)
        for value in (*NO_LIMIT[:3], 100_001, *NO_LIMIT[4:])
    ),
    *(
        Bad("prune_download_jobs", "statuses", value)
        for value in (
            *(None, 5, "completed", b"completed", {"completed": 1}, iter(["completed"])),
            *([status] for status in ("pending", "in_progress", None, *NO_STATUS)),
            {DownloadJobStatus.COMPLETED, DownloadJobStatus.PENDING},
        )
    ),
    *(Bad("get_download_job", "job_id", value) for value in NO_STRINGS),
    *(Bad("get_playlist", "playlist_id", value) for value in NO_STRINGS),
    *(
        Bad("update_download_job_status", "job", value)
        for value in (None, "j", {"job_id": "j"}, DownloadJob(), Track(id="t"), object())
    ),
    *(
        Bad("update_download_job_status", "job", DownloadJob(job_id=value))
        for value in (5, "", "x" * 256, *NO_TEXT)
    ),
    Bad("update_download_job_status", "status", None),
    *(Bad("update_download_job_status", "status", value) for value in NO_STATUS),
    *(Bad("update_download_job_status", "error", value) for value in NO_ERRORS),
    *(Bad("update_download_job_status", "progress", value) for value in NO_PROGRESS),
    *(Bad("list_download_jobs", "status", value) for value in NO_STATUS),
    *(Bad("stream_download_jobs", "status", value) for value in NO_STATUS),
    *(Bad("list_download_jobs", "limit", value) for value in NO_LIMIT),
    *(Bad("list_download_jobs", "after", value) for value in NO_CURSORS),
    *(Bad("get_or_create_track", "track_id", value) for value in NO_IDS),
    *(Bad("get_or_create_track", "track_name", value) for value in NO_NAMES[1:]),
    *(Bad("create_or_update_playlist", "playlist_id", value) for value in NO_IDS),
    *(Bad("create_or_update_playlist", "playlist_name", value) for value in NO_NAMES),
    *(Bad("create_or_update_playlist", "track_ids", value) for value in NO_LISTS),
    *(
        Bad("create_or_update_playlist", "track_ids", ["a", "b", "a", value, "c"], "track_ids[3]")
        for value in NO_IDS
    ),
    *(
        Bad("create_or_update_spotify_token", "token_data", value)
        for value in (None, 5, "canary", [("access_token", "canary")], object())
    ),
    *(Bad("sync_playlists", "playlists", value) for value in (*NO_LISTS, playlist_data())),
    *(
        Bad("sync_playlists", "playlists", [*OTHERS, value], "playlists[3]")
        for value in (*NO_OBJECTS, {"id": "p"}, Playlist(id="p", name="n"))
    ),
    *(
        Bad(
            "sync_playlists",
            "playlists",
            [*OTHERS, _unchecked(playlist_data("d"), name, value)],
            f"playlists[3].{name}",
        )
        for name, values in NO_PLAYLISTS.items()
        for value in values
    ),
    *(
        Bad(
            "sync_playlists",
            "playlists",
            [*OTHERS, _unchecked(playlist_data("d"), "track_ids", ["a", "b", "a", value])],
            "playlists[3].track_ids[3]",
        )
        for value in NO_IDS
    ),
    Bad("sync_playlists", "playlists", [*OTHERS, OTHERS[0]], "playlists[3].id"),
    *(Bad("sync_playlists", "remove_others", value) for value in (None, 0, 1, "no", ["canary"])),
    *(Bad("upsert_tracks", "tracks", value) for value in (*NO_LISTS, schemas.TrackData(id="t"))),
    *(
        Bad("upsert_tracks", "tracks", [*[schemas.TrackData(id="t")] * 3, value], "tracks[3]")
        for value in (*NO_OBJECTS, {"id": "t"}, Track(id="t"))
    ),
    *(
        Bad(
            "upsert_tracks",
            "tracks",
            [*[schemas.TrackData(id="t")] * 3, _unchecked(schemas.TrackData(id="u"), name, value)],
            f"tracks[3].{name}",
        )
        for name, values in NO_TRACKS.items()
        for value in values
    ),
    *(
        Bad("delete_orphan_tracks", "limit", value)
        for value in (*NO_LIMIT[:3], 100_001, *NO_LIMIT[4:])
    ),
    *(Bad("list_playlists", "limit", value) for value in NO_LIMIT),
    *(Bad("list_playlists", "after", value) for value in NO_PLAYLIST_CURSORS),
    *(Bad("stream_playlist_tracks", "playlist_id", value) for value in NO_STRINGS),
    *(Bad("delete_playlist", "playlist_id", value) for value in NO_STRINGS),
    *(
        Bad(
            "create_or_update_spotify_token",
            "token_data",
            {name: value for name, value in token_data().items() if name != missing},
            missing,
        )
        for missing in ("access_token", "expires_at")
    ),
    Bad("create_or_update_spotify_token", "token_data", {}, "access_token"),
    *(
        Bad("create_or_update_spotify_token", "token_data", token_data(**{name: value}), name)
        for name, values in {
            "access_token": (None, *NO_TOKENS),
            "refresh_token": NO_TOKENS,
            "expires_at": NO_EXPIRY,
            "expires_in": (True, "3600", -1, math.nan, math.inf, 10**12),
            "scope": (1, b"a", ["a"], "\0", "\ud800", "x" * 4_097),
            "token_type": (1, b"Bearer", "\0", "\ud800", "x" * 4_097),
        }.items()
        for value in values
    ),
]


async def _call(coroutine: str, db: object, arguments: Mapping[str, object]) -> None:
    called: Any = getattr(crud, coroutine)(db, **arguments)
    if inspect.isasyncgen(called):
        async for _ in called:
            pass
    else:
        await called


def _leaves(value: object) -> list[object]:
    """Return what is in *value*, however deep."""
    if isinstance(value, Mapping):
        return [leaf for each in value.values() for leaf in _leaves(each)]
    if isinstance(value, Claim | Settlement):
        usual: Any = new_claim() if isinstance(value, Claim) else completed(new_claim())
        changed = [each for each, before in zip(value, usual, strict=True) if each is not before]
        return [leaf for each in changed for leaf in _leaves(each)]
    if isinstance(value, list | set | frozenset | tuple):
        return [leaf for each in value for leaf in _leaves(each)]
    if isinstance(value, pydantic.BaseModel):
        return _leaves({name: vars(value)[name] for name in value.model_fields_set})
    if isinstance(value, DownloadJob):
        return _leaves({name: each for name, each in vars(value).items() if name[0] != "_"})
    return [value]


def _shown(value: object, message: str) -> list[object]:
    """Return the parts of *value* that *message* shows; one letter is in every message."""
    return [
        leaf
        for leaf in _leaves(value)
        if leaf not in _LIMITS
        and (repr(leaf) in message or (len(str(leaf)) > 1 and str(leaf) in message))
    ]


_LIMITS: Final = (0, dt.timedelta(0))
"""What a message may tell of: 'longer than 0 seconds'."""


async def _problem(db: object, bad: Bad) -> str | None:
    """Return what is wrong with how *bad* is refused, or None."""
    arguments = {**GOOD[bad.coroutine], bad.argument: bad.value}
    try:
        await _call(bad.coroutine, arguments.pop("db", db), arguments)
    except InvalidValue as error:
        if error.field != (bad.field or bad.argument):
            return f"names {error.field!r}"
        if _shown(bad.value, str(error)) or not str(error).startswith(f"{error.field}: "):
            return f"says {str(error)!r}"
        if (error.__cause__, error.__context__) != (None, None):
            return f"is chained to {error.__cause__!r}, {error.__context__!r}"
        return None
    except Exception as error:  # noqa: BLE001 - whatever else it is, it is reported
        return f"raises {type(error).__name__}"
    return "is accepted"


def test_the_table_is_about_every_argument() -> None:
    """A new argument must come with its bad values."""
    tried = {(bad.coroutine, bad.argument) for bad in BAD}
    arguments = {
        (coroutine, name)
        for coroutine in GOOD
        for name in inspect.signature(getattr(crud, coroutine)).parameters
        if name != "db"
    }

    assert arguments == tried
    assert set(GOOD) == {name for name in crud.__all__ if name != "Page"}


@pytest.mark.parametrize(
    ("coroutine", "argument"), sorted({(bad.coroutine, bad.argument) for bad in BAD})
)
async def test_a_bad_value_is_refused_by_name_before_any_statement(
    engine: AsyncEngine, sessions: Sessions, coroutine: str, argument: str
) -> None:
    """The error hides the value in message and chain, and every table stays as it was."""
    await add_some_of_everything(sessions)
    before = await all_rows(sessions)

    problems: dict[str, str] = {}
    with statements_sent(engine) as sent:
        for bad in (bad for bad in BAD if bad[:2] == (coroutine, argument)):
            async with sessions.begin() as db:
                problem = await _problem(db, bad)
            if problem or sent:
                problems[f"{short(_leaves(bad.value))} {bad.field}"] = problem or f"sent {sent}"
            sent.clear()

    assert problems == {}
    assert await all_rows(sessions) == before
    assert all(before.values())


@pytest.mark.parametrize("coroutine", GOOD)
async def test_what_is_no_async_session_is_refused(coroutine: str) -> None:
    """A forgotten session or a synchronous one is a slip that a clear error should name."""
    values: list[object] = [None, Session(), "sqlite://", AsyncSession, object()]

    problems = {
        short(value): problem
        for value in values
        if (problem := await _problem(value, Bad(coroutine, "db", value)))
    }

    assert problems == {}


@pytest.mark.parametrize("name", NO_JOBS)
def test_a_job_to_create_refuses_a_bad_value_itself(name: str) -> None:
    """A web handler that takes the schema answers 422 before it has a session."""
    for value in NO_JOBS[name]:
        with pytest.raises(pydantic.ValidationError) as refused:
            schemas.DownloadJobCreate.model_validate({"track_id": "t", name: value})
        assert [problem["loc"] for problem in refused.value.errors()] == [(name,)]


def test_a_job_to_create_refuses_what_it_does_not_know_and_stays_as_it_is() -> None:
    """A field that there is not must not be lost in silence."""
    with pytest.raises(pydantic.ValidationError):
        schemas.DownloadJobCreate(track_id="t", rank=1)  # type: ignore[call-arg]
    job = schemas.DownloadJobCreate(track_id="t")
    with pytest.raises(pydantic.ValidationError):
        job.track_id = ""


@pytest.mark.parametrize("character", ["x", "ä", "💾"])
async def test_the_longest_values_fit(sessions: Sessions, character: str) -> None:
    """Limits count characters, on both databases, whatever their size in bytes."""
    key, name = character * fields.ID_MAX_LENGTH, character * fields.NAME_MAX_LENGTH
    error = character * fields.ERROR_MAX_LENGTH
    secret = character * fields.TOKEN_MAX_LENGTH

    async with sessions.begin() as db:
        job = await crud.create_download_job(db, schemas.DownloadJobCreate(track_id=key))
        await crud.update_download_job_status(db, job, schemas.DownloadJobStatus.FAILED, error)
        await crud.get_or_create_track(db, key, name)
        await crud.create_or_update_playlist(db, key, name, [key])
        await crud.create_or_update_spotify_token(
            db, token_data(access_token=secret, refresh_token=secret)
        )

    rows = await all_rows(sessions)
    assert rows["download_jobs"][0][1] == key
    assert rows["download_jobs"][0][5] == error
    assert rows["tracks"] == [(key, name, None, None)]
    assert rows["playlists"] == [(key, name, None)]
    assert rows["playlist_tracks"] == [(key, 0, key)]
    assert rows["spotify_tokens"][0][1:3] == (secret, secret)


ANY_TEXT: Final = st.text(st.characters(exclude_categories=()), max_size=300)


@settings(
    max_examples=60,
    # the database is the same for all examples, and each is rolled back
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(text=ANY_TEXT)
@example(text="")
@example(text="x" * 255)
@example(text="x" * 256)
@example(text="a\0")
@example(text="\ud83d\udcbe")  # two surrogates are no character, though UTF-16 has it so
@example(text=" a ")
@example(text="a\u0308")
@example(text="\ufeff\uffff")
async def test_any_text_is_an_id_that_comes_back_as_it_was_or_is_refused(
    sessions: Sessions, text: str
) -> None:
    """Refused exactly if it is empty, too long, or holds what PostgreSQL cannot store."""
    encodable = text.encode(errors="replace").decode() == text
    valid = 0 < len(text) <= fields.ID_MAX_LENGTH and "\0" not in text and encodable

    refused = ""
    async with sessions() as db:
        try:
            track = await crud.get_or_create_track(db, text)
            playlist = await crud.create_or_update_playlist(db, text, "", [text, text])
        except InvalidValue as error:
            refused = error.field
        if refused:
            assert (valid, refused) == (False, "track_id")
            return
        assert valid
        assert (track.id, playlist.id, ids(playlist)) == (text, text, [text, text])
        db.expunge_all()
        assert (await db.get_one(Track, text)).id == text
        assert ids(await db.get_one(Playlist, text)) == [text, text]
        assert await crud.get_playlist(db, text) is not None
