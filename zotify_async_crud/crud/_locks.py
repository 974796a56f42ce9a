"""What keeps syncs of playlists and deletions apart.

A sync holds its playlists and relies on the tracks that it has seen. Whoever deletes either waits
until no sync is under way, and then keeps new ones waiting until the transaction ends. The lock for
both is that of the table of tracks, which readers never wait for.
"""

from __future__ import annotations

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from zotify_async_crud.crud._session import begin_unit, database_of, on_connection
from zotify_async_crud.models import Track


async def join_syncs(db: AsyncSession) -> None:
    """Begin a sync, beside others, or alone after ``lock_out_syncs``."""
    database = database_of(db)

    def join(connection: Connection) -> None:
        database.join_writers(connection, Track.__tablename__)

    await begin_unit(db)
    await on_connection(db, join)


async def lock_out_syncs(db: AsyncSession) -> None:
    """Begin to delete: wait for syncs, and keep new ones waiting."""
    database = database_of(db)

    def lock_out(connection: Connection) -> None:
        database.lock_out_writers(connection, Track.__tablename__)
        database.plan_afresh(connection)

    await begin_unit(db)
    await on_connection(db, lock_out)
