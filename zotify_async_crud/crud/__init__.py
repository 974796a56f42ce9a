"""The coroutines. Each runs in the caller's transaction: none begins, commits or rolls back."""

from zotify_async_crud.crud._pages import Page
from zotify_async_crud.crud.claims import (
    claim_download_jobs,
    complete_download_job,
    exchange_download_jobs,
    fail_download_job,
    get_download_claims,
    release_download_jobs,
    renew_download_leases,
    report_download_progress,
    rescue_expired_download_jobs,
)
from zotify_async_crud.crud.download_jobs import (
    cancel_download_job,
    get_all_download_jobs,
    get_download_job,
    get_next_pending_download_job,
    list_download_jobs,
    prune_download_jobs,
    retry_failed_download_jobs,
    stream_download_jobs,
    update_download_job_status,
)
from zotify_async_crud.crud.download_queue import (
    get_download_queue_stats,
    get_time_until_next_download_job,
    pause_download_queue,
    resume_download_queue,
)
from zotify_async_crud.crud.enqueueing import create_download_job, create_download_jobs
from zotify_async_crud.crud.playlist_sync import create_or_update_playlist, sync_playlists
from zotify_async_crud.crud.playlists import (
    clear_all_playlists_and_tracks,
    delete_playlist,
    get_playlist,
    list_playlists,
    stream_playlist_tracks,
)
from zotify_async_crud.crud.spotify_tokens import (
    create_or_update_spotify_token,
    delete_spotify_token,
    get_spotify_token,
    rotate_token_keys,
)
from zotify_async_crud.crud.tracks import (
    delete_orphan_tracks,
    get_or_create_track,
    upsert_tracks,
)

__all__ = [
    "Page",
    "cancel_download_job",
    "claim_download_jobs",
    "clear_all_playlists_and_tracks",
    "complete_download_job",
    "create_download_job",
    "create_download_jobs",
    "create_or_update_playlist",
    "create_or_update_spotify_token",
    "delete_orphan_tracks",
    "delete_playlist",
    "delete_spotify_token",
    "exchange_download_jobs",
    "fail_download_job",
    "get_all_download_jobs",
    "get_download_claims",
    "get_download_job",
    "get_download_queue_stats",
    "get_next_pending_download_job",
    "get_or_create_track",
    "get_playlist",
    "get_spotify_token",
    "get_time_until_next_download_job",
    "list_download_jobs",
    "list_playlists",
    "pause_download_queue",
    "prune_download_jobs",
    "release_download_jobs",
    "renew_download_leases",
    "report_download_progress",
    "rescue_expired_download_jobs",
    "resume_download_queue",
    "retry_failed_download_jobs",
    "rotate_token_keys",
    "stream_download_jobs",
    "stream_playlist_tracks",
    "sync_playlists",
    "update_download_job_status",
    "upsert_tracks",
]
