"""The schema: what plain SQL can insert, what it cannot, and who may create it when."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from zotify_async_crud import crud


async def test_plain_sql_can_insert_a_job(sessions: async_sessionmaker[AsyncSession]) -> None:
    """Every column with a sensible default has it in the schema."""
    async with sessions.begin() as db:
        await db.execute(text("INSERT INTO download_jobs (job_id, track_id) VALUES ('j', 't')"))
        job = await crud.get_download_job(db, "j")
    assert job is not None
    assert (job.status, job.progress, job.error_message) == ("pending", 0.0, None)
    assert job.created_at.tzinfo is not None
