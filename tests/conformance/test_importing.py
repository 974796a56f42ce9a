"""Exports that are taken into a database: what it holds then, and what was told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from tests.support.factories import Sessions, add_playlist, all_rows, stored_track_ids
from zotify_async_crud import crud, database, importing, migrations
from zotify_async_crud.demo import SAMPLE_EXPORT
from zotify_async_crud.errors import InvalidExport
from zotify_async_crud.importers import Problem, read_export
from zotify_async_crud.importing import import_exports
from zotify_async_crud.schemas import SyncResult


def entry(track_id: str) -> dict[str, Any]:
    """Return an entry of a playlist."""
    return {"track": {"trackName": f"Song {track_id}", "trackUri": f"spotify:track:{track_id}"}}


def write(path: Path, *playlists: list[Any]) -> Path:
    """Write an export of playlists with these entries."""
    named = [{"name": f"List {n}", "items": items} for n, items in enumerate(playlists)]
    path.write_text(json.dumps({"playlists": named}))
    return path


@pytest.mark.parametrize("at_once", [1, 50, 10_000])
async def test_a_database_holds_what_is_in_the_export(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """In few transactions or in many; other playlists stay, and another import writes nothing."""
    monkeypatch.setattr(importing, "_ENTRIES_AT_ONCE", at_once)
    await add_playlist(sessions, "mine", track_ids=["x"])
    export = read_export(SAMPLE_EXPORT)
    told: list[tuple[int, int]] = []

    result = await import_exports(
        sessions, [SAMPLE_EXPORT], on_progress=lambda done, total: told.append((done, total))
    )
    after = await all_rows(sessions)
    again = await import_exports(sessions, [SAMPLE_EXPORT])

    for playlist in export.playlists:
        assert await stored_track_ids(sessions, playlist.id) == playlist.track_ids
    assert await stored_track_ids(sessions, "mine") == ["x"]
    names = {row[0]: row[1] for row in after["tracks"]}
    assert {key: names[key] for key in export.track_ids} == export.track_names
    assert (result.tracks_created, result.skipped) == (len(export.track_ids), export.skipped)
    assert result.playlists.playlists_created == len(export.playlists)
    assert told[-1][0] == told[-1][1] == told[0][1]
    assert again.playlists == SyncResult(playlists_unchanged=len(export.playlists))
    assert again.tracks_created == 0
    assert await all_rows(sessions) == after


async def test_several_exports_are_imported_one_after_the_other(
    sessions: Sessions, tmp_path: Path
) -> None:
    """The later one says what a playlist of both is."""
    first = write(tmp_path / "1.json", [entry("a"), entry("b")], [entry("c")])
    second = write(tmp_path / "2.json", [entry("b")])

    result = await import_exports(sessions, [first, second])

    assert result.tracks_created == 3
    rows = (await all_rows(sessions))["playlist_tracks"]
    assert sorted(row[2] for row in rows) == ["b", "c"]


async def test_playlists_of_one_name_in_two_files_stay_two(
    sessions: Sessions, tmp_path: Path
) -> None:
    """The files are one export, whether their folder is given or they are."""
    paths = [tmp_path / "Playlist1.json", tmp_path / "Playlist2.json"]
    for path, track_id in zip(paths, ("a", "b"), strict=True):
        write(path, [entry(track_id)])

    result = await import_exports(sessions, paths)
    again = await import_exports(sessions, [tmp_path])

    assert result.playlists.playlists_created == 2
    assert again.playlists == SyncResult(playlists_unchanged=2)


async def test_an_export_with_nothing_in_it_changes_nothing(
    sessions: Sessions, tmp_path: Path
) -> None:
    """It is no error, as a new account has one."""
    result = await import_exports(sessions, [write(tmp_path / "1.json")])
    assert result == importing.ImportResult(SyncResult(), tracks_created=0, skipped=0)


async def test_a_dry_run_tells_what_would_change_and_changes_nothing(
    sessions: Sessions, tmp_path: Path
) -> None:
    """It does it all, and rolls back."""
    await import_exports(sessions, [write(tmp_path / "1.json", [entry("a"), entry("b")])])
    before = await all_rows(sessions)
    changed = write(tmp_path / "1.json", [entry("b"), entry("a"), entry("new")], [entry("new")])

    tried = await import_exports(sessions, [changed], dry_run=True)

    assert await all_rows(sessions) == before
    assert tried == await import_exports(sessions, [changed])
    assert tried.playlists == SyncResult(
        playlists_created=1,
        playlists_updated=1,
        tracks_created=1,
        entries_added=2,
        entries_moved=1,
    )
    assert tried.tracks_created == 1


async def test_nothing_is_written_of_an_export_with_something_wrong_in_it(
    sessions: Sessions, tmp_path: Path
) -> None:
    """Unless somebody is told of what is left out."""
    path = write(tmp_path / "1.json", [entry("a")], [entry("b"), "wrong", entry("c")])
    problems: list[Problem] = []

    with pytest.raises(InvalidExport, match=r"playlists\[1\]\.items\[1\]: "):
        await import_exports(sessions, [SAMPLE_EXPORT, path])
    assert not any((await all_rows(sessions)).values())

    result = await import_exports(sessions, [path], on_problem=problems.append)
    assert [problem.place for problem in problems] == ["playlists[1].items[1]"]
    assert result.playlists.entries_added == 3


async def test_names_stay_though_others_delete_tracks_in_no_playlist(
    engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    """Here they do so after each transaction of the import."""

    class Tidied(AsyncSession):
        async def close(self) -> None:
            await super().close()
            async with sessions.begin() as db:
                await crud.delete_orphan_tracks(db, limit=10)

    path = write(tmp_path / "1.json", [entry("a")])
    await import_exports(async_sessionmaker(engine, class_=Tidied), [path])

    assert [row[:2] for row in (await all_rows(sessions))["tracks"]] == [("a", "Song a")]


async def test_a_dry_run_leaves_the_engine_as_it_was(engine: AsyncEngine) -> None:
    """Also one that fails: its connection goes back."""
    sessions = database.create_session_factory(engine)
    await migrations.downgrade(engine, "base")
    with pytest.raises(Exception, match="tables are missing"):
        await import_exports(sessions, [SAMPLE_EXPORT], dry_run=True)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await migrations.upgrade(engine)
