"""Every exception raised on purpose: one class for each decision that a caller can take.

Each carries ``retry_safe``: whether running the same transaction again, from its beginning, is safe
and has a chance. The coroutines never commit, so an error that comes out of one of them means that
nothing of the caller's transaction has been committed.
"""

from __future__ import annotations

from pathlib import Path


class ZotifyCrudError(Exception):
    """Base of all errors raised on purpose by this library.

    ``args`` are the facts and not the message, so that an error can be pickled and copied.
    """

    retry_safe: bool = False


class InvalidValue(ZotifyCrudError, ValueError):
    """An argument was refused before any SQL ran; correct the value of ``field``.

    The message tells what is wrong, never the value itself: it may be a secret.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field, reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class UnsupportedDatabase(ZotifyCrudError):
    """The database or driver is none of those this library is tested on; use another URL."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"{self.name!r} is not supported: use postgresql+asyncpg:// or sqlite+aiosqlite://"


class InvalidExport(ZotifyCrudError):
    """A Spotify export cannot be read; ``reason`` names the place in the file at ``path``."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class AdoptionRefused(ZotifyCrudError):
    """A database cannot be taken over; ``reason`` says why, and nothing was written.

    It names the table, and the row if one is to blame: correct that, or adopt another database.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the database cannot be adopted: {self.reason}"


class TransactionRequired(ZotifyCrudError):
    """The session has no transaction such as this takes; set up its engine as the message says."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TracksNotLoaded(ZotifyCrudError):
    """``Playlist.tracks`` was read on an object loaded without them; use ``crud.get_playlist``."""

    def __str__(self) -> str:
        return "this Playlist was loaded without its tracks: use crud.get_playlist"


class DownloadJobNotFound(ZotifyCrudError):
    """The job to update is not in the database (any more); drop it."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"there is no download job {self.job_id}"


class DownloadJobExists(ZotifyCrudError):
    """A unique job whose track has one that is pending or in progress; roll back, and keep that."""

    def __str__(self) -> str:
        return "the track has a unique download job that is pending or in progress"


class DownloadJobClaimed(ZotifyCrudError):
    """A worker holds the job by a claim; use ``crud.cancel_download_job``, or wait for it."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"a worker holds download job {self.job_id} at the moment"


class LeaseLost(ZotifyCrudError):
    """The claim does not hold any more; roll back and stop: another worker may have the job."""

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(job_id, attempt)
        self.job_id, self.attempt = job_id, attempt

    def __str__(self) -> str:
        return f"attempt {self.attempt} at download job {self.job_id} lost its lease"


class LoginRequired(ZotifyCrudError):
    """There is no token that could be used or refreshed; let the user log in again.

    ``reason`` says why: nobody is logged in, the refresh token holds no more, or what is stored
    cannot be decrypted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"log in again: {self.reason}"


class InvalidGrant(ZotifyCrudError):
    """Raise it in your refresh coroutine when the token endpoint answers ``invalid_grant``.

    The refresh token holds no more (https://www.rfc-editor.org/rfc/rfc6749#section-5.2), and
    everybody gets ``LoginRequired`` until there is a new login.
    """

    def __str__(self) -> str:
        return "the token endpoint refuses the refresh token"


class TokenRefreshFailed(ZotifyCrudError):
    """The token could not be refreshed; ask again in ``retry_in`` seconds.

    ``reason`` is the name of the refresh coroutine's exception. Its message may hold secrets, and
    is not repeated: log what you need there.
    """

    def __init__(self, reason: str, retry_in: float) -> None:
        super().__init__(reason, retry_in)
        self.reason, self.retry_in = reason, retry_in

    def __str__(self) -> str:
        return f"the token could not be refreshed: {self.reason}; retry in {self.retry_in:.1f} s"


class PoolRunning(ZotifyCrudError):
    """``WorkerPool.run`` was called while it runs; make another pool, or stop it first."""

    def __str__(self) -> str:
        return "this worker pool is running already"


class EnqueuerClosed(ZotifyCrudError):
    """``Enqueuer.enqueue`` was called outside of the enqueuer's ``async with`` block."""

    def __str__(self) -> str:
        return "this enqueuer is not open: call it inside of its async with block"


class DatabaseError(ZotifyCrudError):
    """The database or its driver failed in a way that the caller cannot mend; report it.

    ``code`` is the SQLSTATE on PostgreSQL, the extended result code's name on SQLite, or None.
    The driver's own exception is the cause, but for statements that carry a secret.
    """

    meaning = "the database failed"

    def __init__(self, detail: str, code: str | None = None) -> None:
        super().__init__(detail, code)
        self.detail, self.code = detail, code

    def __str__(self) -> str:
        return f"{self.meaning}: {self.detail}" + (f" [{self.code}]" if self.code else "")


class TransactionConflict(DatabaseError):
    """Another transaction was in the way; run yours again, from its beginning.

    It was a deadlock, a serialization failure, or a file that stayed locked.
    """

    meaning = "another transaction was in the way"
    retry_safe = True


class DatabaseUnavailable(DatabaseError):
    """The database can't be reached, is overloaded or took too long; run the transaction later."""

    meaning = "the database is unavailable"
    retry_safe = True


class OutcomeUnknown(DatabaseError):
    """The connection was lost, perhaps during COMMIT; look before you repeat the work."""

    meaning = "the connection was lost and the transaction may have been committed"


class AccessRefused(DatabaseError):
    """The user, password, database, file or operation is refused; change the configuration."""

    meaning = "the database refuses access"


class SchemaMismatch(DatabaseError):
    """The tables are missing or are not those of this version; create or upgrade the schema."""

    meaning = "the tables are missing or of another version (see migrations.check_schema)"


class ConstraintViolated(DatabaseError):
    """A constraint of the schema refused the rows; nothing was written."""

    meaning = "a constraint refused the rows"
