"""Fixtures for the commands: the program within this process, on each database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.shell import Shell
from tests.support.secrets import KEYS


@pytest.fixture
def shell(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """Commands on a database with the schema and no rows."""
    return _shell(url, tmp_path, capsys, monkeypatch)


@pytest.fixture
def empty_shell(
    empty_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Shell:
    """Commands on a database with nothing in it; on SQLite not even the file is there."""
    return _shell(empty_url, tmp_path, capsys, monkeypatch)


def _shell(
    url: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZOTIFY_TOKEN_KEYS", KEYS[0])
    monkeypatch.setenv("COLUMNS", "100")
    return Shell(url, capsys)
