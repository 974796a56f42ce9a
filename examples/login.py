"""A client of Spotify's Web API: any number of processes share one login, and refresh it once.

Run it with ``python -m examples.login sqlite:///zotify.db CLIENT_ID``, as often as you like, on as
many hosts as you like. With ``--login`` it first stores what the token endpoint answered when the
user logged in, and reads that from its input. ``ZOTIFY_TOKEN_KEYS`` in the environment are the keys
that encrypt the token, the current one first: ``encryption.generate_key`` makes them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from zotify_async_crud import crud, database, errors, migrations
from zotify_async_crud.encryption import TokenKeyring
from zotify_async_crud.token_refresh import finish_refreshes, get_valid_spotify_token

LOG = logging.getLogger("examples.login")

# httpx allows so many seconds for each of four steps: to get a connection, to connect, to send and
# to receive. Together they are less than the 30 s of a lease
TIMEOUT = 7.0


@dataclass(frozen=True)
class Spotify:
    """The Web API, on behalf of the user who is logged in."""

    Session: async_sessionmaker[AsyncSession]
    http: httpx.AsyncClient
    client_id: str
    accounts_url: str = "https://accounts.spotify.com"
    api_url: str = "https://api.spotify.com"

    async def log_in(self, answer: Mapping[str, Any]) -> None:
        """Store what the token endpoint answered when the user logged in."""
        async with self.Session.begin() as db:
            await crud.create_or_update_spotify_token(db, answer)

    async def refresh(self, refresh_token: str) -> Mapping[str, Any]:
        """Ask the token endpoint for a new token, once; the library knows when to try again."""
        form = {
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            "client_id": self.client_id,
        }
        response = await self.http.post(f"{self.accounts_url}/api/token", data=form)
        is_refused = response.status_code == httpx.codes.BAD_REQUEST
        if is_refused and response.json().get("error") == "invalid_grant":
            raise errors.InvalidGrant  # only a new login helps; after any other error, time may
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    async def current_user_playlists(self) -> list[dict[str, Any]]:
        """Return the first of the user's playlists."""
        # no transaction is open here, nor while the token endpoint is asked
        token = await get_valid_spotify_token(self.Session, self.refresh, leeway=60)
        headers = {"Authorization": f"Bearer {token.access_token}"}
        response = await self.http.get(f"{self.api_url}/v1/me/playlists", headers=headers)
        response.raise_for_status()
        items: list[dict[str, Any]] = response.json()["items"]
        return items


def keyring() -> TokenKeyring:
    """Return the keys of the token."""
    return TokenKeyring(*os.environ["ZOTIFY_TOKEN_KEYS"].split())


async def show(options: argparse.Namespace) -> None:
    """Log the names of the user's playlists."""
    engine = database.create_engine(options.url, token_keyring=keyring())
    try:
        await migrations.upgrade(engine)
        sessions = database.create_session_factory(engine)
        async with httpx.AsyncClient(timeout=TIMEOUT) as http:
            urls = options.accounts_url, options.api_url
            spotify = Spotify(sessions, http, options.client_id, *urls)
            if options.login:
                await spotify.log_in(json.load(sys.stdin))
            for playlist in await spotify.current_user_playlists():
                LOG.info("playlist %s", playlist["name"])
    finally:
        await finish_refreshes()  # what one answers may be the only refresh token that holds
        await engine.dispose()


def main() -> None:
    """Read the command line, configure the log, and show the playlists."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="the database")
    parser.add_argument("client_id", help="of your app, as Spotify's dashboard shows it")
    parser.add_argument("--login", action="store_true", help="store the login that is the input")
    parser.add_argument("--accounts-url", default=Spotify.accounts_url)
    parser.add_argument("--api-url", default=Spotify.api_url)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(show(options))
    except errors.LoginRequired as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
