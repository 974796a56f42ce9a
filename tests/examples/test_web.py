"""The web service of the examples, spoken to over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from examples import web


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
