"""Validation: what is accepted, what its error is about, and what it never shows."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.factories import new_job
from tests.support.secrets import shown_with_locals
from zotify_async_crud import _validation as check
from zotify_async_crud import fields, schemas
from zotify_async_crud._secrets import Hidden
from zotify_async_crud.errors import InvalidValue

CANARY: Final = "canary"
MOMENT: Final = dt.datetime(2031, 2, 3, tzinfo=dt.timezone(dt.timedelta(hours=2)))


@given(value=st.floats(min_value=0, max_value=1) | st.sampled_from([0, 1]))
def test_every_number_from_0_to_1_is_a_progress(value: float) -> None:
    """Ints too, and both ends; it comes back as a float."""
    progress = check.validated("progress", check.PROGRESS, value)

    assert progress == value
    assert isinstance(progress, float)


@given(value=st.floats() | st.integers())
def test_no_other_number_is_a_progress(value: float) -> None:
    """NaN and the infinities are numbers to Python and to no progress bar."""
    if 0 <= value <= 1:
        assert check.validated("progress", check.PROGRESS, value) == value
        return
    with pytest.raises(InvalidValue, match=r"^progress: "):
        check.validated("progress", check.PROGRESS, value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("a\0", "String should not contain NUL characters"),
        ("\ud800", "String should not contain lone surrogates"),
        ("", "String should have at least 1 character"),
        ("x" * 256, "String should have at most 255 characters"),
        (5, "Input should be a valid string"),
    ],
)
def test_an_error_tells_what_is_wrong_in_words(value: object, reason: str) -> None:
    """Not in terms of regular expressions and codecs."""
    with pytest.raises(InvalidValue) as caught:
        check.validated("track_id", check.ID, value)

    assert (caught.value.field, caught.value.reason) == ("track_id", reason)


@pytest.mark.parametrize("value", [["a", "b"], ("a", "b"), []], ids=str)
def test_track_ids_may_come_in_any_sequence_that_has_an_order(value: Any) -> None:
    """And leave as a list of their own."""
    track_ids = check.playlist("p", "Name", value).track_ids

    assert track_ids == list(value)
    assert track_ids is not value


@pytest.mark.parametrize("place", [0, 1, 9_999])
def test_a_bad_track_id_is_found_by_its_place(place: int) -> None:
    """In a list of thousands, "one of them" would not help."""
    track_ids = ["t"] * 10_000
    track_ids[place] = ""

    with pytest.raises(InvalidValue) as caught:
        check.playlist("p", "Name", track_ids)

    assert caught.value.field == f"track_ids[{place}]"


def test_the_longest_playlist_has_a_limit() -> None:
    """One bad request must not fill the memory."""
    with pytest.raises(InvalidValue, match=r"^track_ids: ") as caught:
        check.playlist("p", "Name", ["t"] * (fields.PLAYLIST_MAX_TRACKS + 1))

    assert caught.value.field == "track_ids"


def test_a_moment_is_taken_to_utc() -> None:
    """So that both databases store the same."""
    data = check.token_data(Hidden({"access_token": "a", "expires_at": MOMENT}))

    assert data.expires_at == MOMENT
    assert data.expires_at.tzinfo is dt.UTC
    assert data.refresh_token is None


@pytest.mark.parametrize(
    "data",
    [
        {"access_token": CANARY + "\0", "refresh_token": CANARY, "expires_at": MOMENT},
        {"access_token": CANARY, "refresh_token": f"{CANARY}\ud800", "expires_at": MOMENT},
        {"access_token": CANARY, "refresh_token": CANARY, "expires_at": CANARY},
        {"access_token": CANARY, "refresh_token": CANARY},
        {"access_token": [CANARY], "refresh_token": CANARY, "expires_at": MOMENT},
        [CANARY],
        CANARY,
    ],
)
def test_no_error_about_a_token_shows_any_of_it(data: Any) -> None:
    """Not in its message, its chain or its traceback, not even with all local variables."""
    answer = Hidden(data)
    with pytest.raises(InvalidValue) as caught:
        check.token_data(answer)

    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    assert CANARY not in "".join([repr(error), repr(vars(error)), *shown_with_locals(error)])


def test_validated_token_data_has_no_secret_in_its_repr() -> None:
    """It may stand in a caller's local variables."""
    data = check.token_data(
        Hidden({"access_token": CANARY, "refresh_token": CANARY, "expires_at": MOMENT})
    )

    assert CANARY not in f"{data!r} {data}"
    assert data.access_token == CANARY


@pytest.mark.parametrize("value", ["", "\0", "\ud800", "x" * 256])
def test_a_string_that_no_row_can_have_is_not_findable(value: str) -> None:
    """A question about it has an answer without SQL."""
    assert not check.findable(value, "job_id")
    assert check.findable("j", "job_id")


LONGEST: Final = dt.timedelta(days=3_650)


@given(seconds=st.integers(0, 315_360_000) | st.floats(0, 315_360_000))
def test_every_number_of_seconds_up_to_ten_years_is_a_duration(seconds: float) -> None:
    """And comes back as the timedelta that it is, to the microsecond."""
    duration = check.validated("retry_in", check.DURATION, seconds)

    assert duration == dt.timedelta(seconds=seconds)
    assert check.validated("retry_in", check.DURATION, duration) is duration


@given(seconds=st.integers() | st.floats())
def test_no_other_number_is_a_duration(seconds: float) -> None:
    """NaN and the infinities are numbers to Python, and no time that anything takes."""
    try:
        valid = dt.timedelta(0) <= dt.timedelta(seconds=seconds) <= LONGEST
    except (OverflowError, ValueError):
        valid = False
    if valid:
        assert check.validated("retry_in", check.DURATION, seconds) >= dt.timedelta(0)
        return
    with pytest.raises(InvalidValue, match=r"^retry_in: "):
        check.validated("retry_in", check.DURATION, seconds)


@given(duration=st.timedeltas())
def test_a_timedelta_from_none_to_ten_years_is_a_duration(duration: dt.timedelta) -> None:
    """Others are not."""
    if dt.timedelta(0) <= duration <= LONGEST:
        assert check.validated("older_than", check.DURATION, duration) is duration
        return
    with pytest.raises(InvalidValue, match=r"^older_than: "):
        check.validated("older_than", check.DURATION, duration)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("60", "Input should be a timedelta or seconds"),
        (True, "Input should be a timedelta or seconds"),
        (None, "Input should be a timedelta or seconds"),
        (float("nan"), "Input should be a finite number of seconds"),
        (float("inf"), "Input should be a finite number of seconds"),
        (10**400, "Input should be a finite number of seconds"),
        (0, "Input should be longer than 0 seconds"),
        (dt.timedelta(0), "Input should be longer than 0 seconds"),
        (1e-9, "Input should be longer than 0 seconds"),
    ],
)
def test_a_lease_that_cannot_be_is_told_in_words(value: object, reason: str) -> None:
    """And without the value."""
    with pytest.raises(InvalidValue) as caught:
        check.validated("lease", check.LEASE, value)

    assert (caught.value.field, caught.value.reason) == ("lease", reason)


@pytest.mark.parametrize("value", [dt.timedelta(microseconds=1), 1e-6, 1, LONGEST])
def test_a_lease_is_longer_than_nothing(value: dt.timedelta | float) -> None:
    """As short as a clock can tell, and as long as any duration."""
    assert check.validated("lease", check.LEASE, value) > dt.timedelta(0)


@pytest.mark.parametrize("place", [0, 1, 9_999])
def test_a_bad_job_is_found_by_its_place_and_field(place: int) -> None:
    """In a list of thousands, "one of them" would not help."""
    jobs = [new_job()] * 10_000
    jobs[place] = schemas.DownloadJobCreate.model_construct(track_id="")

    with pytest.raises(InvalidValue) as caught:
        check.jobs(jobs)

    assert caught.value.field == f"jobs[{place}].track_id"


def test_a_list_of_jobs_leaves_as_a_list_of_its_own() -> None:
    """Whatever becomes of the caller's."""
    jobs = [new_job("a"), new_job("b")]

    assert check.jobs(jobs) == jobs
    assert check.jobs(tuple(jobs)) == jobs
    assert check.jobs(jobs) is not jobs


@pytest.mark.parametrize(
    "name", ["DownloadJob", "Track", "Playlist", "DownloadJobCreate", "SpotifyTokenData"]
)
def test_what_goes_in_or_out_as_data_cannot_be_changed(name: str) -> None:
    """A frozen schema can be shared between tasks."""
    assert getattr(schemas, name).model_config["frozen"] is True
