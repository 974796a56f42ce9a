"""The command line and the demo within this process, where chance, time and failures are ours."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from importlib import metadata
from pathlib import Path

import pytest
from sqlalchemy import delete, make_url

from tests.cli.programs import small_export
from tests.support.factories import Sessions, add_job, token_data
from zotify_async_crud import __main__, cli, crud, demo, models
from zotify_async_crud.demo import Stage, Summary, _downloads, _steps, _token, _transactions
from zotify_async_crud.errors import (
    DownloadJobNotFound,
    OutcomeUnknown,
    TransactionConflict,
    ZotifyCrudError,
)
from zotify_async_crud.schemas import DownloadJobStatus


class Recorder:
    """Keeps what the demo reports."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.totals: dict[Stage, int] = {}
        self.done = dict.fromkeys(Stage, 0)
        self.failed = 0

    def say(self, line: str) -> None:
        """Keep a remark."""
        self.said.append(line)

    def begin(self, stage: Stage, total: int) -> None:
        """Keep the total."""
        self.totals[stage] = total

    def advance(self, stage: Stage, steps: int = 1) -> None:
        """Add up the steps."""
        self.done[stage] += steps

    def fail(self, stage: Stage) -> None:
        """Count the failures."""
        assert stage is Stage.DOWNLOAD
        self.failed += 1


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make transactions run again at once."""
    monkeypatch.setattr(_transactions, "PAUSES", (0.0, 0.0))


async def run(export: Path, url: str, recorder: Recorder) -> Summary:
    """Run the demo with three workers and the same chance each time."""
    chance = random.Random(7)  # noqa: S311 - no secret
    return await demo.run(export, url, workers=3, chance=chance, reporter=recorder)


async def test_it_reports_each_step_and_each_failure(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed is retried until nothing fails, and counts once as done."""
    monkeypatch.setattr(_downloads, "FAILURE_RATE", 0.5)
    recorder = Recorder()
    summary = await run(small_export(tmp_path), url, recorder)
    assert recorder.totals == recorder.done
    assert recorder.totals == {Stage.SYNC: 1, Stage.ENQUEUE: 12, Stage.DOWNLOAD: 12}
    assert recorder.said == []
    assert recorder.failed == summary.downloads.failed_attempts > 0
    assert (summary.totals.playlists, summary.totals.tracks) == (1, 12)
    assert (summary.downloads.completed, summary.totals.unfinished_jobs) == (12, 0)
    assert summary.skipped == 1
    assert summary.rate == pytest.approx(12 / summary.seconds)


async def test_jobs_in_progress_at_the_beginning_are_given_back(
    url: str, sessions: Sessions, tmp_path: Path
) -> None:
    """Whoever held them was killed. Jobs of tracks that no export names are done as well."""
    export = small_export(tmp_path)
    await add_job(sessions, "stray", status=DownloadJobStatus.IN_PROGRESS, progress=0.5)
    await add_job(sessions, f"{0:022}", status=DownloadJobStatus.FAILED, error="killed")
    recorder = Recorder()
    summary = await run(export, url, recorder)
    assert recorder.said == ["Jobs left in progress by an earlier run, given back: 1"]
    assert recorder.totals[Stage.ENQUEUE] == 11
    assert recorder.done[Stage.DOWNLOAD] == 13
    assert summary.totals.jobs[DownloadJobStatus.COMPLETED] == 13


async def test_a_worker_that_cannot_go_on_stops_the_others(sessions: Sessions) -> None:
    """Its error comes out as it is, not in a group."""
    for _ in range(5):
        await add_job(sessions)

    async def delete_all_jobs(_track_id: str) -> None:
        async with sessions.begin() as db:
            await db.execute(delete(models.DownloadJob))

    with pytest.raises(DownloadJobNotFound):
        await _downloads.download_all(sessions, delete_all_jobs, 3, Recorder())


async def test_a_conflict_is_run_again(no_pauses: None) -> None:
    """Nothing of the first attempt was committed."""
    errors = [TransactionConflict("deadlock"), TransactionConflict("deadlock")]

    @_transactions.transaction
    async def unit() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert await unit() == "done"


@pytest.mark.parametrize(
    ("error", "attempts"), [(TransactionConflict("deadlock"), 3), (OutcomeUnknown("lost"), 1)]
)
async def test_other_errors_and_endless_conflicts_come_out(
    error: ZotifyCrudError, attempts: int, no_pauses: None
) -> None:
    """The number of attempts is bounded."""
    tried = []

    @_transactions.transaction
    async def unit() -> None:
        tried.append(1)
        raise error

    with pytest.raises(type(error)):
        await unit()
    assert len(tried) == attempts


async def test_the_token_is_refreshed_each_time_it_expires(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh token of the login stays."""
    monkeypatch.setattr(_token, "LIFETIME", dt.timedelta(milliseconds=10))
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        refreshing = group.create_task(_token.keep_fresh(sessions, work))
        tokens = {await changed_token(sessions, set())}
        while len(tokens) < 4:
            tokens.add(await changed_token(sessions, tokens))
        work.set_result(None)
    assert refreshing.result() >= 3
    assert len({refresh_token for _, refresh_token in tokens}) == 1


async def changed_token(sessions: Sessions, known: set[tuple[str, str]]) -> tuple[str, str]:
    """Wait for a token that is not *known*."""
    while True:
        async with sessions.begin() as db:
            token = await crud.get_spotify_token(db)
        if token is not None and (token.access_token, token.refresh_token) not in known:
            return token.access_token, token.refresh_token
        await asyncio.sleep(0.001)


async def test_a_token_that_has_not_expired_is_left_alone(sessions: Sessions) -> None:
    """It may be a real one."""
    async with sessions.begin() as db:
        await crud.create_or_update_spotify_token(db, token_data())
    work: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    work.set_result(None)
    assert await _token.keep_fresh(sessions, work) == 0
    async with sessions.begin() as db:
        token = await crud.get_spotify_token(db)
    assert token is not None
    assert token.access_token == token_data()["access_token"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite+aiosqlite:///zotify.db", "sqlite+aiosqlite:///zotify.db"),
        ("postgresql+asyncpg://ann:s3cret@db/z", "postgresql+asyncpg://ann:***@db/z"),
        (
            "postgresql+asyncpg://ann@/z?host=db&port=5433&password=s3cret",
            "postgresql+asyncpg://ann@/z?host=db&port=5433",
        ),
    ],
)
def test_where_the_database_is_can_be_told_to_anybody(url: str, shown: str) -> None:
    """Passwords stand in more than one place of a URL."""
    assert _steps.location(make_url(url)) == shown


def test_the_command_runs_the_demo(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a shell, twice."""
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--export", str(small_export(tmp_path)), "--workers", "2"]
    assert cli.main(arguments) == 0
    assert "Download: 12 done" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert "Nothing is left to download" in capsys.readouterr().out


def test_the_command_draws_bars_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Remarks stand above them, and failures beside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(_downloads, "FAILURE_RATE", 0.5)
    arguments = ["demo", "--export", str(small_export(tmp_path))]
    assert cli.main(arguments) == 0
    drawn = capsys.readouterr().out
    assert "━" in drawn
    assert "attempts failed" in drawn
    assert cli.main(arguments) == 0
    assert "Nothing is left to download" in capsys.readouterr().out


def test_the_command_fails_while_jobs_are_not_completed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up after some rounds, and the next run goes on."""
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--export", str(small_export(tmp_path))]
    with monkeypatch.context() as patch:
        patch.setattr(_downloads, "FAILURE_RATE", 1.1)
        patch.setattr(_downloads, "ROUNDS", 2)
        assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert "│ Jobs completed                               │  0 │" in said.out
    assert said.err.count("\n") == 1
    assert said.err.startswith("zotify-async-crud: jobs that are not completed: 12; ")
    assert cli.main(arguments) == 0


def test_the_command_tells_errors_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those of its options, with an exit code of their own."""
    assert cli.main(["demo", "--export", str(tmp_path)]) == 1
    assert cli.main(["demo", "--workers", "none"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 2)


def test_version_and_help_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of the demo names its options and its limits."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == metadata.version("zotify-async-crud")
    assert cli.main([]) == cli.main(["--help"]) == 0
    assert "demo" in capsys.readouterr().out
    assert cli.main(["demo", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for part in ("--export", "--database-url", "--workers", "ZOTIFY_DATABASE_URL", "one at a time"):
        assert part in told


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_entry_point_exits_with_the_code(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell sees what the command line returns."""
    monkeypatch.setattr(cli, "main", lambda: code)
    with pytest.raises(SystemExit) as exit_:
        __main__.main()
    assert exit_.value.code == code


def test_the_entry_point_tells_an_interrupt_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit code is the one that shells give to a program ended by Ctrl-C."""

    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    with pytest.raises(SystemExit) as exit_:
        __main__.main()
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "Interrupted: run the same command again to go on\n"
