"""The web service of the examples, spoken to over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from examples import web
from zotify_async_crud import events


@pytest.fixture
async def client(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, on a database of its own."""
    web.app.state.database_url = url
    transport = httpx.ASGITransport(web.app)
    async with (
        web.lifespan(web.app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client


async def test_an_enqueued_download_can_be_followed(client: httpx.AsyncClient) -> None:
    """What was answered to the first request is stored when the second one comes."""
    answer = await client.post("/downloads", json={"track_id": "t1"})
    assert answer.status_code == 202
    assert answer.json()["status"] == "pending"
    shown = await client.get(f"/downloads/{answer.json()['job_id']}")
    assert shown.json() == answer.json()


async def test_pages_lead_through_all_downloads(client: httpx.AsyncClient) -> None:
    """The key of one page, passed back in a URL, gives the next."""
    for number in range(5):
        await client.post("/downloads", json={"track_id": f"t{number}"})
    seen: list[str] = []
    query: dict[str, str | int] = {"limit": 2}
    while True:
        page = (await client.get("/downloads", params=query)).json()
        seen += [download["track_id"] for download in page["downloads"]]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert seen == ["t4", "t3", "t2", "t1", "t0"]


async def test_a_track_is_enqueued_once_however_often_it_is_asked_for(
    client: httpx.AsyncClient,
) -> None:
    """Each request is answered with the job that there is, committed."""
    answers = await asyncio.gather(*(client.post("/tracks/t1/download") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    shown = await client.get(f"/downloads/{answers[0].json()['job_id']}")
    assert (shown.json()["track_id"], shown.json()["status"]) == ("t1", "pending")


async def test_a_download_can_be_cancelled(client: httpx.AsyncClient) -> None:
    """One that waits is cancelled at once."""
    job = (await client.post("/downloads", json={"track_id": "t1"})).json()
    answer = await client.delete(f"/downloads/{job['job_id']}")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert (await client.get(f"/downloads/{job['job_id']}")).json() == answer.json()


async def test_the_queue_is_told(client: httpx.AsyncClient) -> None:
    """What waits, and for how long."""
    empty = (await client.get("/queue")).json()
    assert (empty["pending"], empty["oldest_pending_age"]) == (0, None)
    await client.post("/downloads", json={"track_id": "t1"})
    await client.post("/tracks/t2/download")
    full = (await client.get("/queue")).json()
    assert (full["pending"], full["in_progress"], full["paused"]) == (2, 0, False)
    assert full["oldest_pending_age"] is not None


@pytest.mark.parametrize(
    ("path", "body"), [("/downloads", {"track_id": "t1"}), ("/tracks/t1/download", None)]
)
async def test_workers_elsewhere_are_told_of_a_download(
    path: str,
    body: dict[str, str] | None,
    client: httpx.AsyncClient,
    engine: AsyncEngine,
) -> None:
    """They need not poll for it."""
    looks = asyncio.Queue[None]()
    watch = events.watch_others(engine, lambda: looks.put_nowait(None), interval=0.01)
    async with asyncio.timeout(30):
        watching = asyncio.create_task(watch)
        await looks.get()  # the first look, at what was there before
        await client.post(path, json=body)
        await looks.get()
    watching.cancel()
    await asyncio.wait({watching})


@pytest.mark.parametrize(
    ("path", "status"),
    [("/downloads/unknown", 404), ("/downloads?limit=0", 422), ("/downloads?after=x", 422)],
)
async def test_what_cannot_be_answered_is_refused(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    """Bad values are the client's fault, not a failure of the service."""
    assert (await client.get(path)).status_code == status


async def test_an_empty_id_is_refused(client: httpx.AsyncClient) -> None:
    """The schema of the request is the one of the library."""
    assert (await client.post("/downloads", json={"track_id": ""})).status_code == 422


async def test_a_job_that_does_not_exist_cannot_be_cancelled(client: httpx.AsyncClient) -> None:
    """It is told as such."""
    assert (await client.delete("/downloads/unknown")).status_code == 404


@pytest.mark.parametrize("track_id", ["x" * 256, "%00"])
async def test_a_path_that_holds_no_id_is_refused(client: httpx.AsyncClient, track_id: str) -> None:
    """Before it reaches the enqueuer, whose other callers it would concern."""
    assert (await client.post(f"/tracks/{track_id}/download")).status_code == 422
