"""The data layer of the Zotify API: coroutines on an ``AsyncSession``, PostgreSQL and SQLite."""

from zotify_async_crud import crud, database, errors, models, schemas

__all__ = ["crud", "database", "errors", "models", "schemas"]
