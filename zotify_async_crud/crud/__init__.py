"""The coroutines. Each runs in the caller's transaction: none begins, commits or rolls back."""

from zotify_async_crud.crud._pages import Page
from zotify_async_crud.crud.download_jobs import (
    create_download_job,
    get_all_download_jobs,
    get_download_job,
    get_next_pending_download_job,
    list_download_jobs,
    retry_failed_download_jobs,
    stream_download_jobs,
    update_download_job_status,
)
from zotify_async_crud.crud.playlists import (
    clear_all_playlists_and_tracks,
    create_or_update_playlist,
    get_playlist,
)
from zotify_async_crud.crud.spotify_tokens import (
    create_or_update_spotify_token,
    delete_spotify_token,
    get_spotify_token,
)
from zotify_async_crud.crud.tracks import get_or_create_track

__all__ = [
    "Page",
    "clear_all_playlists_and_tracks",
    "create_download_job",
    "create_or_update_playlist",
    "create_or_update_spotify_token",
    "delete_spotify_token",
    "get_all_download_jobs",
    "get_download_job",
    "get_next_pending_download_job",
    "get_or_create_track",
    "get_playlist",
    "get_spotify_token",
    "list_download_jobs",
    "retry_failed_download_jobs",
    "stream_download_jobs",
    "update_download_job_status",
]
