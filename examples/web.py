"""A web service on the data layer: one transaction a request, committed before the answer goes out.

Run it with ``uvicorn examples.web:app``, and workers beside it: see ``examples.worker``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud import crud, database, errors, events, fields, migrations, schemas
from zotify_async_crud.enqueuer import Enqueuer


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the database for as long as the service runs, and tell workers elsewhere of new jobs."""
    engine = database.create_engine(getattr(app.state, "database_url", "sqlite:///zotify.db"))
    await migrations.upgrade(engine)
    app.state.Session = database.create_session_factory(engine)
    async with events.notifying(engine), Enqueuer(app.state.Session) as app.state.enqueuer:
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
    """Answer 422 for a bad value, 404 for no such job, 503 where another attempt may do, or 500."""
    statuses = {errors.InvalidValue: 422, errors.DownloadJobNotFound: 404}
    status = statuses.get(type(error), 503 if error.retry_safe else 500)
    return JSONResponse({"detail": str(error)}, status)


@app.post("/downloads", status_code=202)
async def enqueue(db: Database, job: schemas.DownloadJobCreate) -> schemas.DownloadJob:
    """Enqueue a download in this request's transaction, beside whatever else belongs to it."""
    await crud.get_or_create_track(db, job.track_id)
    return schemas.DownloadJob.model_validate(await crud.create_download_job(db, job))


@app.post("/tracks/{track_id}/download", status_code=202)
async def download(request: Request, track_id: fields.Id) -> dict[str, str]:
    """Enqueue the download of a track, unless it is under way already.

    Where that is all there is to store, requests that come at the same time share a transaction.
    """
    job = schemas.DownloadJobCreate(track_id=track_id, unique=True)
    enqueuer: Enqueuer = request.app.state.enqueuer
    return {"job_id": await enqueuer.enqueue(job)}


@app.get("/downloads/{job_id}")
async def show(db: Database, job_id: str) -> schemas.DownloadJob:
    """Tell where a download stands."""
    job = await crud.get_download_job(db, job_id)
    if job is None:
        raise HTTPException(404)
    return schemas.DownloadJob.model_validate(job)


@app.delete("/downloads/{job_id}")
async def cancel(db: Database, job_id: str) -> schemas.DownloadJob:
    """Cancel a download; of one that runs, the worker is asked to stop."""
    return schemas.DownloadJob.model_validate(await crud.cancel_download_job(db, job_id))


@app.get("/downloads")
async def page(
    db: Database, limit: int = 50, after: str | None = None
) -> dict[str, str | list[schemas.DownloadJob] | None]:
    """List downloads, newest first; ``next`` is the ``after`` of the next request."""
    found = await crud.list_download_jobs(db, limit=limit, after=after)
    jobs = [schemas.DownloadJob.model_validate(job) for job in found.items]
    return {"downloads": jobs, "next": found.after}


@app.get("/queue")
async def queue(db: Database) -> schemas.DownloadQueueStats:
    """Tell how long the queue is and how fast it moves."""
    return await crud.get_download_queue_stats(db)
