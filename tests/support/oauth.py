"""A token endpoint on localhost that rotates refresh tokens and detects their replay.

It is OAuth 2.0 as RFC 6749, section 6, and RFC 9700, section 4.14.2, have it: each refresh token
holds for one request, whose answer brings the next one. When one is presented again, somebody may
have stolen it, so the whole family is revoked: the login that it began with, and all that followed.
Any number of processes may ask. Beside it is one page of a Web API, for the newest access token.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl

CLIENT_ID: Final = "client-of-the-tests"
"""The one client that the endpoint knows."""

PLAYLISTS: Final = ("Focus", "Sleep")
"""The names of the user's playlists."""

_PATIENCE: Final = 60.0
_TOKEN_PATH: Final = "/api/token"
_PLAYLISTS_PATH: Final = "/v1/me/playlists"

_Answer: TypeAlias = tuple[HTTPStatus, dict[str, Any]]


@dataclass
class _Family:
    """All refresh tokens that descend from one login."""

    newest: str = ""
    is_revoked: bool = False


class TokenEndpoint:
    """What the server knows, how often it was asked, and how it is told to behave.

    ``lifetime`` is that of an access token, in seconds. While ``fails``, each request is answered
    with 500 and, as careless debug pages do, with all that it sent. While ``may_answer`` is not
    set, requests are counted and held before anything else is done with them.
    """

    def __init__(self, url: str, lifetime: float) -> None:
        self.url, self.lifetime = url, lifetime
        self.fails = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._presented: Counter[str] = Counter()
        self._families: dict[str, _Family] = {}
        self._login = _Family()
        self._newest_access_token = ""
        self._changed = threading.Condition()

    @property
    def token_url(self) -> str:
        """Where refresh tokens are presented."""
        return self.url + _TOKEN_PATH

    @property
    def requests(self) -> int:
        """How many requests for a token have come."""
        with self._changed:
            return self._presented.total()

    @property
    def presented(self) -> dict[str, int]:
        """How often each refresh token was presented."""
        with self._changed:
            return dict(self._presented)

    @property
    def newest_access_token(self) -> str:
        """The access token that was given out last."""
        with self._changed:
            return self._newest_access_token

    @property
    def is_revoked(self) -> bool:
        """Whether the last login is over."""
        with self._changed:
            return self._login.is_revoked

    def log_in(self) -> dict[str, Any]:
        """Begin a new family, and return what a user's login is answered."""
        with self._changed:
            self._login = _Family()
            return self._issue(self._login)

    def wait_for_requests(self, requests: int) -> None:
        """Return once so many requests have come, held or not."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._presented.total() >= requests, _PATIENCE)
        assert came, f"{self.requests} instead of {requests} requests"

    def answer(self, form: Mapping[str, str]) -> _Answer:
        """Answer a request for a token."""
        refresh_token = form.get("refresh_token", "")
        with self._changed:
            self._presented[refresh_token] += 1
            self._changed.notify_all()
        self.may_answer.wait()
        with self._changed:
            if self.fails:
                return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "server_error", **form}
            if form.get("client_id") != CLIENT_ID:
                return _refusal("invalid_client")
            if form.get("grant_type") != "refresh_token":
                return _refusal("unsupported_grant_type")
            return self._refresh(refresh_token)

    def playlists(self, authorization: str | None) -> _Answer:
        """Answer a request for the user's playlists."""
        if authorization != f"Bearer {self.newest_access_token}":
            return HTTPStatus.UNAUTHORIZED, {"error": {"status": 401, "message": "Invalid token"}}
        return HTTPStatus.OK, {"items": [{"name": name} for name in PLAYLISTS]}

    def _refresh(self, refresh_token: str) -> _Answer:
        family = self._families.get(refresh_token, _UNKNOWN)
        if refresh_token != family.newest:
            family.is_revoked = True
        if family.is_revoked:
            return _refusal("invalid_grant")
        return HTTPStatus.OK, self._issue(family)

    def _issue(self, family: _Family) -> dict[str, Any]:
        access_token, refresh_token = (secrets.token_urlsafe(32) for _ in range(2))
        self._newest_access_token, family.newest = access_token, refresh_token
        self._families[refresh_token] = family
        return {
            "access_token": access_token,
            "token_type": "Bearer",
            "scope": "playlist-read-private",
            "expires_in": self.lifetime,
            "refresh_token": refresh_token,
        }


_UNKNOWN: Final = _Family(is_revoked=True)


def _refusal(error: str) -> _Answer:
    return HTTPStatus.BAD_REQUEST, {"error": error, "error_description": "Refused"}


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        """Answer at the token endpoint."""
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == _TOKEN_PATH:
            self._send(*self.server.endpoint.answer(dict(parse_qsl(sent.decode()))))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_GET(self) -> None:
        """Answer at the Web API."""
        if self.path == _PLAYLISTS_PATH:
            self._send(*self.server.endpoint.playlists(self.headers["Authorization"]))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _send(self, status: HTTPStatus, content: Mapping[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # no thread outlives the server
    request_queue_size = 512  # all callers of a test connect at once

    def __init__(self, lifetime: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = TokenEndpoint(f"http://127.0.0.1:{self.server_port}", lifetime)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that did not wait for their answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serving(*, lifetime: float = 3600) -> Iterator[TokenEndpoint]:
    """Serve a token endpoint while the block runs; held requests are released at its end."""
    with _Server(lifetime) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.endpoint
        finally:
            server.endpoint.may_answer.set()
            server.shutdown()
            thread.join()
