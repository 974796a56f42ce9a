"""The commands about the tables: made, upgraded, taken back, and taken over."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.adoption.original import create_original, insert, job, token
from tests.cli.programs import small_export
from tests.cli.shell import Shell
from tests.support.factories import add_token
from tests.support.faults import file_of
from zotify_async_crud import database, migrations

NEWEST = migrations.newest_revision()
NOTHING = "There are no tables of this library\n"


def test_tables_are_made_upgraded_and_taken_back(empty_shell: Shell) -> None:
    """Each time it says where they are."""
    assert empty_shell.run("migrate", "--to", "base") == NOTHING
    assert empty_shell.run("migrate", "--to", "0001") == "The tables are now at revision 0001\n"
    assert empty_shell.json("migrate") == {"before": "0001", "after": NEWEST}
    assert empty_shell.run("migrate") == f"The tables are at revision {NEWEST}\n"
    back = ("migrate", "--to", "0002", "--yes")
    assert empty_shell.run(*back) == "The tables are now at revision 0002\n"
    assert empty_shell.run(*back) == "The tables are at revision 0002\n"
    assert empty_shell.run("migrate", "--to", "base", "--yes") == NOTHING


def test_a_revision_that_there_is_none_of_is_refused(shell: Shell) -> None:
    """Before anybody is asked."""
    complaint = shell.complaint("migrate", "--to", "9999", code=2)
    assert complaint.startswith("revision: Input should be one of 0001, ")


@pytest.mark.parametrize("command", ["import", "demo"])
def test_a_new_database_gets_its_tables_and_an_old_one_does_not(
    empty_shell: Shell, tmp_path: Path, command: str
) -> None:
    """To upgrade is for whoever knows what else uses it."""
    export = small_export(tmp_path)
    arguments = (command, *(("--export", str(export)) if command == "demo" else (str(export),)))
    empty_shell.run("migrate", "--to", "0002")
    complaint = empty_shell.complaint(*arguments, code=4)
    assert "they are of revision 0002" in complaint
    assert empty_shell.json("migrate", "--to", "0002")["before"] == "0002"
    empty_shell.run("migrate", "--to", "base", "--yes")
    empty_shell.run(*arguments)
    assert empty_shell.json("migrate")["before"] == NEWEST


def test_an_import_tells_a_script_what_it_changed(empty_shell: Shell, tmp_path: Path) -> None:
    """Progress goes to stderr then."""
    out, err = empty_shell.both("import", str(small_export(tmp_path)), "--json", "--dry-run")
    found = json.loads(out)
    assert (found["dry_run"], found["tracks_created"]) == (True, 12)
    assert found["playlists"]["playlists_created"] == 1
    assert err == "Import: 15 done\n"


def test_a_demo_tells_a_script_what_it_did(empty_shell: Shell, tmp_path: Path) -> None:
    """As does an import."""
    out, err = empty_shell.both("demo", "--export", str(small_export(tmp_path)), "--json")
    assert json.loads(out)["jobs"]["by_status"]["completed"] == 12
    assert err.endswith("Download: 12 done\n")


def test_a_database_of_the_original_is_adopted(empty_shell: Shell) -> None:
    """A dry run tells the same, and changes nothing; the second time there is nothing to do."""
    empty_shell.do(create_original)
    empty_shell.execute("INSERT INTO tracks (id) VALUES ('t1')")
    empty_shell.do(lambda engine: insert(engine, "download_jobs", job()))
    tried = empty_shell.run("adopt", "--dry-run")
    assert "│ Jobs pending " in tried
    assert tried.endswith("Dry run: nothing was written\n")
    report = empty_shell.json("adopt", "--dry-run")
    assert (report["dry_run"], report["tracks"], report["nothing_to_do"]) == (True, 1, False)
    assert "run `zotify-async-crud adopt`" in empty_shell.complaint("stats", code=4)

    assert empty_shell.run("adopt", "--yes") == tried.removesuffix("Dry run: nothing was written\n")
    assert empty_shell.run("adopt", "--yes") == "The tables are this library's already\n"
    empty_shell.run("stats")


def test_what_an_adoption_mended_is_told(empty_shell: Shell) -> None:
    """In a line each."""
    empty_shell.do(create_original)
    empty_shell.execute("ALTER TABLE tracks ADD COLUMN colour TEXT")
    assert "Note: tracks.colour has no place here, and is dropped" in empty_shell.run(
        "adopt", "--yes"
    )


def test_a_token_that_is_adopted_in_clear_is_told(
    empty_shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what encrypts it; a dry run says so, too."""
    empty_shell.do(create_original)
    empty_shell.do(lambda engine: insert(engine, "spotify_tokens", token()))
    monkeypatch.delenv("ZOTIFY_TOKEN_KEYS")
    out, err = empty_shell.both("adopt", "--yes")
    assert "│ Token " in out
    assert err == (
        "zotify-async-crud: the token is kept in clear: set ZOTIFY_TOKEN_KEYS,"
        " and run `zotify-async-crud token rotate-keys`\n"
    )


def test_what_cannot_be_adopted_is_told(empty_shell: Shell) -> None:
    """As is a database in which there is nothing."""
    empty_shell.execute("CREATE TABLE others (id INTEGER)")
    assert empty_shell.complaint("adopt", "--yes", code=4).startswith(
        "the database cannot be adopted: "
    )


def test_tables_without_a_revision_are_dropped_too(empty_shell: Shell) -> None:
    """They are those of this version, whoever has made them."""
    empty_shell.run("migrate")
    empty_shell.execute(f"DROP TABLE {migrations.VERSION_TABLE}")
    back = empty_shell.json("migrate", "--to", "base", "--yes")
    assert back == {"before": NEWEST, "after": None}
    assert "there are none" in empty_shell.complaint("stats", code=4)


@pytest.mark.parametrize(
    "arguments",
    [("migrate",), ("migrate", "--to", "base", "--yes"), ("import",), ("import", "--dry-run")],
)
def test_tables_of_somebody_else_are_left_alone(
    empty_shell: Shell, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """As are those of the original, for which there is a command."""
    empty_shell.execute("CREATE TABLE tracks (id INTEGER)")
    export = (str(small_export(tmp_path)),) if "import" in arguments else ()
    complaint = empty_shell.complaint(*arguments, *export, code=4)
    assert "they have no revision, and are not those of this version" in complaint


def test_a_dry_run_looks_at_tables_without_a_revision(empty_shell: Shell, tmp_path: Path) -> None:
    """It tells what an import would do to them, and leaves the revision unwritten."""
    export = str(small_export(tmp_path))
    empty_shell.run("import", export)
    empty_shell.execute(f"DROP TABLE {migrations.VERSION_TABLE}")
    found = json.loads(empty_shell.both("import", export, "--dry-run", "--json")[0])
    assert found["tracks_created"] == 0
    assert found["playlists"]["playlists_unchanged"] == 1
    assert empty_shell.do(migrations.current_revision) is None


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "arguments",
    [("import", "--dry-run"), ("import",), ("stats",), ("migrate",), ("adopt", "--yes")],
)
def test_what_does_nothing_to_a_file_leaves_it_as_it_is(
    empty_shell: Shell, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """To look for tables and to be refused does not switch how it is written, either."""
    path = Path(file_of(empty_shell.url))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE tracks (id INTEGER)")
    before = path.read_bytes()
    export = (str(small_export(tmp_path)),) if "import" in arguments else ()
    empty_shell.complaint(*arguments, *export, code=4)
    assert path.read_bytes() == before


@pytest.mark.parametrize("empty_url", ["sqlite"], indirect=True)
def test_an_adoption_that_is_tried_leaves_the_file_as_it_is(empty_shell: Shell) -> None:
    """Though it is done, and rolled back; afterwards the file is written as any other of ours."""
    path = Path(file_of(empty_shell.url))
    empty_shell.do(create_original)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()

    empty_shell.run("adopt", "--dry-run")

    assert path.read_bytes() == before
    empty_shell.run("adopt", "--yes")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_does_nothing_makes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a dry run of an import, nor what is refused, nor what there is nothing to do for."""
    shell = Shell(f"sqlite:///{tmp_path}/zotify.db", capsys)
    export = str(small_export(tmp_path))
    assert shell.run("migrate", "--to", "base") == NOTHING
    shell.complaint("migrate", "--to", "nonsense", code=2)
    out, _ = shell.both("import", export, "--dry-run")
    assert out.endswith("Dry run: nothing was written\n")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_demo_replaces_no_login(empty_shell: Shell, tmp_path: Path) -> None:
    """It has one of its own, which it knows again."""
    demo = ("demo", "--export", str(small_export(tmp_path)))
    empty_shell.both(*demo)
    empty_shell.both(*demo)

    async def log_in(engine: AsyncEngine) -> None:
        await add_token(database.create_session_factory(engine), scope="user-library-read")

    empty_shell.do(log_in)
    before = empty_shell.json("token", "status")
    complaint = empty_shell.complaint(*demo, code=2)
    assert complaint.startswith("database_url: Input should be a database without a login")
    assert empty_shell.json("token", "status") == before
