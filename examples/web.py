"""A web service on the data layer: one transaction a request, committed before the answer goes out.

Run it with ``uvicorn examples.web:app``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import crud, database, errors, schemas


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database for as long as the service runs."""
    engine = database.create_engine(getattr(app.state, "database_url", "sqlite:///zotify.db"))
    await database.create_schema(engine)
    app.state.Session = database.create_session_factory(engine)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def session(request: Request) -> AsyncIterator[AsyncSession]:
    """Give a handler a transaction: committed when it returns, rolled back when it raises."""
    async with request.app.state.Session.begin() as db:
        yield db


# "function": the transaction ends before the client hears that its job is stored
Database = Annotated[AsyncSession, Depends(session, scope="function")]


@app.exception_handler(errors.ZotifyCrudError)
async def refuse(_: Request, error: errors.ZotifyCrudError) -> JSONResponse:
    """Answer 422 for a bad value, 503 where another attempt may do, and 500 for the rest."""
    status = 422 if isinstance(error, errors.InvalidValue) else 503 if error.retry_safe else 500
    return JSONResponse({"detail": str(error)}, status)


@app.post("/downloads", status_code=202)
async def enqueue(db: Database, job: schemas.DownloadJobCreate) -> schemas.DownloadJob:
    """Enqueue a download."""
    return schemas.DownloadJob.model_validate(await crud.create_download_job(db, job))


@app.get("/downloads/{job_id}")
async def show(db: Database, job_id: str) -> schemas.DownloadJob:
    """Tell where a download stands."""
    job = await crud.get_download_job(db, job_id)
    if job is None:
        raise HTTPException(404)
    return schemas.DownloadJob.model_validate(job)


@app.get("/downloads")
async def page(
    db: Database, limit: int = 50, after: str | None = None
) -> dict[str, str | list[schemas.DownloadJob] | None]:
    """List downloads, newest first; ``next`` is the ``after`` of the next request."""
    found = await crud.list_download_jobs(db, limit=limit, after=after)
    jobs = [schemas.DownloadJob.model_validate(job) for job in found.items]
    return {"downloads": jobs, "next": found.after}
