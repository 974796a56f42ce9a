"""What a model shows of itself."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

import pytest
from sqlalchemy.exc import StatementError

from tests.support.factories import Sessions
from zotify_async_crud import crud, models
from zotify_async_crud.errors import InvalidValue


@pytest.mark.parametrize(
    ("instance", "shown"),
    [
        (models.DownloadJob(), "DownloadJob()"),
        (models.DownloadJob(job_id="j", progress=0.5), "DownloadJob(job_id='j', progress=0.5)"),
        (models.DownloadQueue(paused=True), "DownloadQueue(paused=True)"),
        (models.Track(id="t", name="T"), "Track(id='t', name='T')"),
        (models.Playlist(id="p", name="P"), "Playlist(id='p', name='P')"),
        (
            models.PlaylistTrack(playlist_id="p", position=0, track_id="t"),
            "PlaylistTrack(playlist_id='p', position=0, track_id='t')",
        ),
        (models.SpotifyToken(id=1, access_token="canary"), "SpotifyToken(id=1)"),
    ],
)
def test_a_repr_shows_what_is_loaded(instance: models.Base, shown: str) -> None:
    """And nothing else: a repr sends no SQL, and no secret is in it."""
    assert repr(instance) == shown


async def test_a_token_that_cannot_be_stored_does_not_show_its_secrets(
    sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where the caller adds it to the session and SQLAlchemy tells of its parameters."""
    caplog.set_level(logging.DEBUG)
    naive = dt.datetime(2030, 1, 1)  # noqa: DTZ001 - what is refused
    async with sessions() as db:
        db.add(models.SpotifyToken(access_token="canary", refresh_token="canary", expires_at=naive))
        with pytest.raises(StatementError) as refused:
            await crud.get_spotify_token(db)
    assert "canary" not in str(refused.value)
    assert "canary" not in caplog.text


@pytest.mark.parametrize("field", ["access_token", "refresh_token"])
@pytest.mark.parametrize("value", [None, 5, b"canary"])
def test_what_is_no_string_is_no_token(field: str, value: Any) -> None:
    """It would be sent as what Python writes for it."""
    with pytest.raises(InvalidValue, match=f"^{field}: Input should be a valid string$"):
        models.SpotifyToken(**{field: value})
