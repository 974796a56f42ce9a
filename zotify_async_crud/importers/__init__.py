"""Reads what Spotify says about playlists, into what ``crud`` takes.

``account_data`` reads the files of an account-data export, ``web_api`` the pages of the Web API.
"""

from zotify_async_crud.importers._imported import Imported, OnProblem, Problem
from zotify_async_crud.importers.account_data import Export, read_export, stream_export
from zotify_async_crud.importers.web_api import read_playlist

__all__ = [
    "Export",
    "Imported",
    "OnProblem",
    "Problem",
    "read_export",
    "read_playlist",
    "stream_export",
]
