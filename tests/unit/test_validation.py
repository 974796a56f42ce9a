"""Validation: what is accepted, what its error is about, and what it never shows."""

from __future__ import annotations

import datetime as dt
import traceback
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zotify_async_crud import _validation as check
from zotify_async_crud import schemas
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
    track_ids = check.track_ids(value)

    assert track_ids == list(value)
    assert track_ids is not value


@pytest.mark.parametrize("place", [0, 1, 9_999])
def test_a_bad_track_id_is_found_by_its_place(place: int) -> None:
    """In a list of thousands, "one of them" would not help."""
    track_ids = ["t"] * 10_000
    track_ids[place] = ""

    with pytest.raises(InvalidValue) as caught:
        check.track_ids(track_ids)

    assert caught.value.field == f"track_ids[{place}]"


def test_the_longest_playlist_has_a_limit() -> None:
    """One bad request must not fill the memory."""
    with pytest.raises(InvalidValue, match=r"^track_ids: ") as caught:
        check.track_ids(["t"] * (schemas.PLAYLIST_MAX_TRACKS + 1))

    assert caught.value.field == "track_ids"


def test_a_moment_is_taken_to_utc() -> None:
    """So that both databases store the same."""
    data = check.token_data({"access_token": "a", "expires_at": MOMENT})

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
def test_no_error_about_a_token_shows_any_of_it(data: object) -> None:
    """Not in its message, its chain or its traceback."""
    with pytest.raises(InvalidValue) as caught:
        check.token_data(data)

    error = caught.value
    assert (error.__cause__, error.__context__) == (None, None)
    assert CANARY not in "".join(
        [repr(error), repr(vars(error)), *traceback.format_exception(error)]
    )


def test_validated_token_data_has_no_secret_in_its_repr() -> None:
    """It may stand in a caller's local variables."""
    data = check.token_data({"access_token": CANARY, "refresh_token": CANARY, "expires_at": MOMENT})

    assert CANARY not in f"{data!r} {data}"
    assert data.access_token == CANARY


@pytest.mark.parametrize("value", ["", "\0", "\ud800", "x" * 256])
def test_a_string_that_no_row_can_have_is_not_findable(value: str) -> None:
    """A question about it has an answer without SQL."""
    assert not check.findable(value, "job_id")
    assert check.findable("j", "job_id")


@pytest.mark.parametrize(
    "name", ["DownloadJob", "Track", "Playlist", "DownloadJobCreate", "SpotifyTokenData"]
)
def test_what_goes_in_or_out_as_data_cannot_be_changed(name: str) -> None:
    """A frozen schema can be shared between tasks."""
    assert getattr(schemas, name).model_config["frozen"] is True
