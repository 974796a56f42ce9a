"""Never seen: random tokens are planted everywhere, and looked for wherever they could turn up.

That is in every log at its most talkative, in errors with all local variables of their tracebacks,
in whatever can be printed or pickled, and in every byte that the databases leave on the disk. Only
the frames of the tests themselves are left out. A warning would be an error.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import functools
import io
import json
import logging
import pickle
import pprint
import reprlib
import secrets
import tempfile
import traceback
from collections import UserDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from sqlalchemy import (
    CheckConstraint,
    Connection,
    Executable,
    MetaData,
    event,
    inspect,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.support import faults
from tests.support.factories import EPOCH, Sessions
from tests.support.postgresql import EmbeddedServer
from tests.support.secrets import KEYS, shown_by_rich, shown_short_by_rich, shown_with_locals
from zotify_async_crud import crud, database, encryption, fields, migrations, schemas
from zotify_async_crud._statements.spotify_tokens import TOKENS, Lease
from zotify_async_crud.encryption import TokenInClear, TokenKeyring
from zotify_async_crud.errors import (
    ConstraintViolated,
    DatabaseError,
    InvalidGrant,
    InvalidValue,
    LoginRequired,
    SchemaMismatch,
    TokenRefreshFailed,
    ZotifyCrudError,
)
from zotify_async_crud.models import Base, SpotifyToken
from zotify_async_crud.token_refresh import Refresh, get_valid_spotify_token

KEY, NEXT_KEY, UNKNOWN_KEY = KEYS
RING: Final = TokenKeyring(KEY)

_HOUR: Final = 3600
_LOGS_EVERYTHING: Final = (
    "fsync=off",
    "log_statement=all",
    "log_min_messages=debug1",
    "log_min_error_statement=debug5",
    "log_parameter_max_length=-1",
    "log_parameter_max_length_on_error=-1",
    "log_error_verbosity=verbose",
)


# what is looked for


class Canaries:
    """Makes tokens that are all different, and finds each of them however it is written.

    They begin and end with the same random mark. One search finds all of them, also those that were
    cut short.
    """

    def __init__(self) -> None:
        self._mark = secrets.token_hex(6)

    def new(self) -> str:
        """Return a token that nobody has."""
        # longer than what a traceback with locals shortens
        return f"{self._mark}{secrets.token_hex(120)}{self._mark}"

    def seen_in(self, data: bytes) -> list[str]:
        """Return how a token is written in *data*, with what stands around it."""
        places = ((form, data.find(needle)) for form, needle in self._forms())
        return [f"{form}: {data[max(0, at - 60) : at + 60]!r}" for form, at in places if at >= 0]

    def _forms(self) -> Iterator[tuple[str, bytes]]:
        mark = self._mark.encode()
        yield "as it is", mark
        yield "in UTF-16", self._mark.encode("utf-16-le")[:-1]  # of either byte order
        yield "in hexadecimal", mark.hex().encode()
        for before in range(3):
            encoded = base64.b64encode(bytes(before) + mark)
            # without the characters that also depend on what stands before or behind
            yield "in base64", encoded[-(-8 * before // 6) : 8 * (before + len(mark)) // 6]


# where it is looked for


@dataclass(frozen=True)
class Place:
    """A database that nobody else uses, and the files in which it could leave something."""

    url: str
    folder: Path
    patterns: tuple[str, ...]
    server: EmbeddedServer | None = None

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the content of each. A lock of SQLite's would not survive this."""
        for path in [path for pattern in self.patterns for path in self.folder.glob(pattern)]:
            with contextlib.suppress(FileNotFoundError):  # PostgreSQL deletes what it needs no more
                if path.is_file():
                    yield str(path.relative_to(self.folder)), path.read_bytes()

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """Let no server run while the block does."""
        if self.server is not None:
            self.server.stop()
        try:
            yield
        finally:
            if self.server is not None:
                self.server.start()


Expected: TypeAlias = type[BaseException] | tuple[type[BaseException], ...]


@dataclass
class Stage:
    """An engine on which tokens are used and misused, and all that was shown meanwhile."""

    place: Place
    engine: AsyncEngine
    caplog: pytest.LogCaptureFixture
    canaries: Canaries = field(default_factory=Canaries)
    shown: list[str] = field(default_factory=list)

    @property
    def sessions(self) -> Sessions:
        """Sessions on the engine."""
        return database.create_session_factory(self.engine)

    def answer(self, **changes: object) -> dict[str, object]:
        """Return what a token endpoint answers, with tokens that are new."""
        access, refresh = self.canaries.new(), self.canaries.new()
        token = {"access_token": access, "refresh_token": refresh, "token_type": "Bearer"}
        return {**token, "expires_in": _HOUR, "scope": "user-library-read", **changes}

    async def log_in(self, **changes: object) -> SpotifyToken:
        """Store new tokens; without a refresh token this is no login, but an update."""
        async with self.sessions.begin() as db:
            return await crud.create_or_update_spotify_token(db, self.answer(**changes))

    async def execute(self, *statements: str) -> None:
        """Execute and commit statements that the library would not."""
        async with self.sessions.begin() as db:
            for statement in statements:
                await db.execute(text(statement))

    async def fails(self, expected: Expected, work: Awaitable[object]) -> None:
        """Let *work* fail, and keep all that its error shows."""
        with pytest.raises(expected) as caught:
            await work
        self.keep_error(caught.value)

    def keep_error(self, error: BaseException) -> None:
        """Keep all that *error* shows."""
        self.shown += [*shown_with_locals(error), *traceback.format_exception(error)]
        self.shown += shown_by_rich(error)

    def keep(self, *things: object) -> None:
        """Keep all that *things* show when they are printed; a token by itself is a string."""
        for thing in things:
            self.shown += [repr(thing), ascii(thing), reprlib.repr(thing), pprint.pformat(thing)]
            self.shown += [shown_short_by_rich(thing)]
            if not isinstance(thing, str):
                self.shown += [str(thing), f"{thing}", f"{thing!r:>9}"]

    def keep_statements(self) -> None:
        """From now on, keep what listeners see of each statement, before and after it is bound."""

        def keep(connection: Connection, statement: Executable, *given: object) -> None:
            compiled = statement.compile(dialect=connection.dialect)  # type: ignore[attr-defined]
            self.keep(repr(statement), compiled, compiled.params, given)

        def keep_bound(
            _: object, __: object, statement: str, parameters: object, *_3: object
        ) -> None:
            self.keep(statement, parameters)

        event.listen(self.engine.sync_engine, "before_execute", keep)
        event.listen(self.engine.sync_engine, "before_cursor_execute", keep_bound)

    async def reset(self) -> None:
        """Let the tables be as they are at first, whichever of them was lost."""
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
            await connection.execute(text(f"DROP TABLE IF EXISTS {migrations.VERSION_TABLE}"))
        await migrations.upgrade(self.engine)

    def seen(self) -> list[str]:
        """Return where a token can be seen by those who use the program."""
        logged = (part for record in self.caplog.records for part in _parts(record))
        return self.canaries.seen_in(_encoded("\n".join([*self.shown, *logged])))

    async def on_disk(self) -> list[str]:
        """Return where a token is in the files of the database, which is open."""
        if self.place.server is not None:
            async with faults.apart(self.place.url) as connection:
                await connection.execute(text("CHECKPOINT"))
        return self.in_files()

    def in_files(self) -> list[str]:
        """Return where a token is in the files of the database."""
        found = {name: self.canaries.seen_in(data) for name, data in self.place.files()}
        return [f"{name} {place}" for name, places in found.items() for place in places]


def _parts(record: logging.LogRecord) -> Iterator[str]:
    """Yield all that a log can show of *record*, whatever its format is."""
    yield record.getMessage()
    yield logging.Formatter().format(record)
    yield repr(record.__dict__)
    if record.exc_info and record.exc_info[1]:
        yield from shown_with_locals(record.exc_info[1])


def _encoded(shown: str) -> bytes:
    return shown.encode(errors="surrogatepass")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    """A server of our own, whose log has all that a log can have."""
    settings = [part for setting in _LOGS_EVERYTHING for part in ("-c", setting)]
    with tempfile.TemporaryDirectory(prefix="zpg-") as folder:
        server = EmbeddedServer(Path(folder), tuple(settings))
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["postgresql", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A database of either kind."""
    if request.param == "sqlite":
        return Place(f"sqlite+aiosqlite:///{tmp_path}/zotify.db", tmp_path, ("zotify.db*",))
    server: EmbeddedServer = request.getfixturevalue("server")
    return Place(server.url, server.log.parent, ("data/**/*", "log"), server)


@pytest.fixture
def talkative(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Let every logger log everything; ``echo`` must not give one a handler that outlives this."""
    engines = logging.getLogger("sqlalchemy.engine.Engine")
    monkeypatch.setattr(engines, "handlers", [logging.NullHandler()])
    caplog.set_level(logging.DEBUG)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and logger.level:
            caplog.set_level(logging.DEBUG, name)


@pytest.fixture
async def talkative_loop() -> AsyncIterator[None]:
    """Let asyncio log each step that it takes, with all that it knows of it."""
    loop = asyncio.get_running_loop()
    before = loop.get_debug(), loop.slow_callback_duration
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    yield
    loop.set_debug(before[0])
    loop.slow_callback_duration = before[1]


@contextlib.asynccontextmanager
async def _staged(
    place: Place, caplog: pytest.LogCaptureFixture, ring: TokenKeyring | None
) -> AsyncIterator[Stage]:
    engine = database.create_engine(place.url, token_keyring=ring, echo="debug")
    stage = Stage(place, engine, caplog)
    try:
        await stage.reset()
        stage.keep_statements()
        yield stage
    finally:
        await engine.dispose()


@pytest.fixture
async def stage(
    place: Place, caplog: pytest.LogCaptureFixture, talkative: None, talkative_loop: None
) -> AsyncIterator[Stage]:
    """A stage with a key ring."""
    async with _staged(place, caplog, RING) as stage:
        yield stage


@pytest.fixture
async def clear_stage(
    place: Place, caplog: pytest.LogCaptureFixture, talkative: None
) -> AsyncIterator[Stage]:
    """A stage without a key ring, whose warning has been given."""
    async with _staged(place, caplog, None) as stage:
        encryption.is_first_in_clear(stage.engine.dialect)
        yield stage


# what is done with tokens

Act: TypeAlias = Callable[[Stage], Awaitable[None]]


def _answering(answer: Any) -> Refresh:
    async def refresh(refresh_token: str) -> Any:
        return answer

    return refresh


def _valid_token(stage: Stage, answer: Any, **options: Any) -> Awaitable[SpotifyToken]:
    return get_valid_spotify_token(stage.sessions, _answering(answer), **options)


async def _log_in_and_out(stage: Stage) -> None:
    for changes in ({}, {}, {"refresh_token": None}):
        stage.keep(await stage.log_in(**changes))
    async with stage.sessions.begin() as db:
        await crud.delete_spotify_token(db)
        await crud.delete_spotify_token(db)


def _assert_no_pickle(*things: object) -> None:
    """Nothing is written down, not even a part."""
    for thing in things:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            written = io.BytesIO()
            with pytest.raises(TypeError, match="pickled"):
                pickle.dump(thing, written, protocol)
            assert written.getvalue() == b""


async def _read(stage: Stage) -> None:
    await stage.log_in()
    async with stage.sessions() as db:
        token = await crud.get_spotify_token(db)
        assert token is not None
        row = (await db.execute(select(TOKENS))).one()
        stage.keep(token, [token], vars(token), token.access_token, db, dict(db.identity_map))
        stage.keep(row, tuple(row), row._asdict(), row._mapping)  # noqa: SLF001 - a public name
        token.access_token = stage.canaries.new()
        state = inspect(token)
        stage.keep(db.dirty, state, state.dict, state.attrs.access_token.history)
        stage.keep(Lease(token.login_id, 1, token.expires_at, token.refresh_token))
        _assert_no_pickle(token, row, tuple(row), state.dict)


async def _refresh(stage: Stage) -> None:
    for changes in ({}, {"refresh_token": None}):
        await stage.log_in(expires_at=EPOCH)
        answer = stage.answer(**changes)
        token = await _valid_token(stage, answer)
        assert token.access_token == answer["access_token"]
        stage.keep(token)


async def _ask_for_more_than_there_is(stage: Stage) -> None:
    await stage.log_in(expires_at=EPOCH)
    await stage.fails(InvalidValue, _valid_token(stage, stage.answer(), leeway=2 * _HOUR))


async def _fail_to_refresh(
    stage: Stage, failure: Callable[[str], BaseException], expected: type[ZotifyCrudError]
) -> None:
    await stage.log_in(expires_at=EPOCH)

    async def refresh(refresh_token: str) -> Mapping[str, Any]:
        raise failure(f"cannot send {refresh_token}") from ValueError(f"{refresh_token}")

    for _ in range(2):
        await stage.fails(expected, get_valid_spotify_token(stage.sessions, refresh))


FAILURES: Final[dict[str, tuple[Callable[[str], BaseException], type[ZotifyCrudError]]]] = {
    "an error": (OSError, TokenRefreshFailed),
    "a group": (lambda told: ExceptionGroup(told, [OSError(told)]), TokenRefreshFailed),
    "a cancellation": (asyncio.CancelledError, TokenRefreshFailed),
    "InvalidGrant": (InvalidGrant, LoginRequired),
    "LoginRequired": (LoginRequired, TokenRefreshFailed),
    "InvalidValue": (functools.partial(InvalidValue, "refresh_token"), TokenRefreshFailed),
}
"""What a refresh raises, and what its callers get."""


class _Unreadable(UserDict[str, object]):
    """An answer that fails when it is read, and says too much."""

    def keys(self) -> Any:
        raise KeyError(str(self["access_token"]))


def _without(name: str) -> Callable[[Stage], Any]:
    return lambda stage: {key: each for key, each in stage.answer().items() if key != name}


def _with(name: str, change: Callable[[str], object]) -> Callable[[Stage], Any]:
    return lambda stage: stage.answer(**{name: change(stage.canaries.new())})


NO_ANSWERS: Final[dict[str, Callable[[Stage], Any]]] = {
    "no access token": _without("access_token"),
    "no expiry": _without("expires_in"),
    "a bad expires_at": _with("expires_at", str),
    "a bad expires_in": _with("expires_in", str),
    "a bad scope": _with("scope", lambda token: [token]),
    **{
        f"{name} in {column}": _with(column, change)
        for column in ("access_token", "refresh_token")
        for name, change in {
            "NUL": lambda token: f"{token}\0{token}",
            "a surrogate": lambda token: f"{token}\ud800{token}",
            "an envelope's characters": lambda token: f"{token}\u2801{token}",
            "too much": lambda token: token * fields.TOKEN_MAX_LENGTH,
            "bytes": str.encode,
            "a list": lambda token: [token],
        }.items()
    },
    "text": lambda stage: json.dumps(stage.answer()),
    "bytes": lambda stage: json.dumps(stage.answer()).encode(),
    "a list": lambda stage: list(stage.answer().items()),
}
"""What is no answer of a token endpoint."""


async def _get_no_answer(stage: Stage) -> None:
    no_answers = [no_answer(stage) for no_answer in NO_ANSWERS.values()]
    for no_answer in (*no_answers, _Unreadable(stage.answer())):
        await stage.log_in(expires_at=EPOCH)
        await stage.fails(TokenRefreshFailed, _valid_token(stage, no_answer))


async def _store_no_answer(stage: Stage) -> None:
    await stage.log_in()
    for no_answer in NO_ANSWERS.values():
        async with stage.sessions() as db:
            storing = crud.create_or_update_spotify_token(db, no_answer(stage))
            await stage.fails(InvalidValue, storing)


async def _everything_fails(stage: Stage, expected: type[BaseException], *steps: Step) -> None:
    """Let each way to use a token fail in a transaction of its own."""
    for step in steps:
        async with stage.sessions() as db:
            await stage.fails(expected, step(stage, db))


Step: TypeAlias = Callable[[Stage, AsyncSession], Awaitable[object]]


def _log_in(stage: Stage, db: AsyncSession) -> Awaitable[object]:
    return crud.create_or_update_spotify_token(db, stage.answer())


def _update(stage: Stage, db: AsyncSession) -> Awaitable[object]:
    return crud.create_or_update_spotify_token(db, stage.answer(refresh_token=None))


def _get(stage: Stage, db: AsyncSession) -> Awaitable[object]:
    return crud.get_spotify_token(db)


def _delete(stage: Stage, db: AsyncSession) -> Awaitable[object]:
    return crud.delete_spotify_token(db)


def _rotate(stage: Stage, db: AsyncSession) -> Awaitable[object]:
    return crud.rotate_token_keys(db)


async def _lose_the_table(stage: Stage) -> None:
    await stage.log_in(expires_at=EPOCH)

    async def refresh(refresh_token: str) -> Mapping[str, Any]:
        await stage.execute("DROP TABLE spotify_tokens")
        return stage.answer()

    await stage.fails(SchemaMismatch, get_valid_spotify_token(stage.sessions, refresh))
    await _everything_fails(stage, SchemaMismatch, _log_in, _update, _get, _delete)


async def _write_what_is_refused(stage: Stage) -> None:
    """PostgreSQL's own message quotes the row."""
    table = TOKENS.to_metadata(MetaData())
    table.append_constraint(CheckConstraint("version < 2"))
    await stage.execute("DROP TABLE spotify_tokens")
    async with stage.engine.begin() as connection:
        await connection.run_sync(table.create)
    await stage.log_in(expires_at=EPOCH)
    await stage.fails(ConstraintViolated, _valid_token(stage, stage.answer()))
    await _everything_fails(stage, ConstraintViolated, _log_in, _update)


async def _break_off(stage: Stage) -> None:
    """Cancel the caller at each step in turn."""
    before = asyncio.all_tasks()
    for step in (_log_in, _update, _get, _ask):
        number, interrupted = 0, True
        while interrupted:
            await stage.log_in(expires_at=EPOCH)
            ended = await faults.cancelled_at(number, "while it waits", _in_turn(stage, step))
            if ended.error is not None:
                stage.keep_error(ended.error)
            number, interrupted = number + 1, ended.was_cancelled
    while left := asyncio.all_tasks() - before:  # a refresh goes on
        await asyncio.wait(left)


async def _in_turn(stage: Stage, step: Step) -> None:
    async with stage.sessions() as db:
        await step(stage, db)


def _ask(stage: Stage, _: AsyncSession) -> Awaitable[object]:
    return _valid_token(stage, stage.answer())


async def _lose_the_connection(stage: Stage) -> None:
    await stage.log_in()
    for step in (_log_in, _update, _get):
        async with stage.sessions() as db:
            await _cut(stage, db)
            await stage.fails(DatabaseError, step(stage, db))


async def _cut(stage: Stage, db: AsyncSession) -> None:
    if stage.place.server is not None:
        await faults.kill(stage.place.url, await faults.server_process_of(db))
    else:
        await (await _driver(db)).close()


async def _driver(db: AsyncSession) -> Any:
    raw = await (await db.connection()).get_raw_connection()
    return raw.driver_connection


async def _be_stopped(stage: Stage) -> None:
    """Let the database give up a statement that has all that it needs but its time."""
    await stage.log_in()
    for step in (_log_in, _update):
        async with _stopping(stage) as db:
            await stage.fails(DatabaseError, step(stage, db))


@contextlib.asynccontextmanager
async def _stopping(stage: Stage) -> AsyncIterator[AsyncSession]:
    """Yield a session whose statements do not come to their end."""
    async with stage.sessions() as db:
        if stage.place.server is None:
            driver = await _driver(db)
            await driver.set_progress_handler(lambda: 1, 1)
            yield db
            await driver.set_progress_handler(None, 1)
        else:
            async with stage.sessions() as other:
                await crud.delete_spotify_token(other)  # its lock is waited for
                await db.execute(text("SET LOCAL statement_timeout = 1"))
                yield db


Flush: TypeAlias = Callable[[AsyncSession], Awaitable[object]]


async def _add_by_hand(stage: Stage, *flushes: Flush) -> None:
    """Add objects to a session, which the database, a type or the encryption refuses."""
    naive, surrogate = EPOCH.replace(tzinfo=None), f"{stage.canaries.new()}\ud800"
    bad: list[dict[str, object]] = [{"id": 2}, {"expires_at": naive}, {"access_token": surrogate}]
    for changes in bad:
        for flush in flushes:
            async with stage.sessions() as db:
                db.add(_by_hand(stage, **changes))
                stage.keep(db.new)
                await stage.fails(Exception, flush(db))
    async with stage.sessions.begin() as db:
        db.add(_by_hand(stage))


async def _let_it_be_flushed(stage: Stage) -> None:
    await _add_by_hand(stage, crud.get_spotify_token, crud.delete_spotify_token)


async def _flush(stage: Stage) -> None:
    await _add_by_hand(stage, AsyncSession.flush, crud.pause_download_queue)


def _by_hand(stage: Stage, **changes: Any) -> SpotifyToken:
    answer = stage.answer()
    tokens = {name: answer[name] for name in ("access_token", "refresh_token")}
    return SpotifyToken(**{"id": 1, "expires_at": EPOCH, **tokens, **changes})


ACTS: Final[dict[str, Act]] = {
    "login and logout": _log_in_and_out,
    "reading": _read,
    "refresh": _refresh,
    "leeway": _ask_for_more_than_there_is,
    **{
        f"refresh raises {name}": functools.partial(_fail_to_refresh, failure=failure, expected=get)
        for name, (failure, get) in FAILURES.items()
    },
    "refresh is answered badly": _get_no_answer,
    "bad token data": _store_no_answer,
    "missing table": _lose_the_table,
    "refused row": _write_what_is_refused,
    "cancelled caller": _break_off,
    "stopped statement": _be_stopped,
    "lost connection": _lose_the_connection,
    "flush by a coroutine": _let_it_be_flushed,
}
"""What is done with tokens, with and without a key ring."""


async def _rotate_the_keys(stage: Stage) -> None:
    await stage.log_in()
    encryption.use_keyring(stage.engine, TokenKeyring(NEXT_KEY, KEY))
    async with stage.sessions.begin() as db:
        assert await crud.rotate_token_keys(db)
    encryption.use_keyring(stage.engine, RING)


async def _have_no_key(stage: Stage) -> None:
    await stage.log_in()
    for ring, steps in ((TokenKeyring(UNKNOWN_KEY), (_get, _update, _rotate)), (None, (_get,))):
        encryption.use_keyring(stage.engine, ring)
        await _everything_fails(stage, LoginRequired, *steps, _ask)
    encryption.use_keyring(stage.engine, RING)


async def _find_it_changed(stage: Stage) -> None:
    for change in ("refresh_token = access_token", "refresh_token = substr(refresh_token, 1, 40)"):
        await stage.log_in()
        await stage.execute(f"UPDATE spotify_tokens SET {change}")
        await _everything_fails(stage, LoginRequired, _get, _update, _rotate, _ask)


async def _read_what_is_stored(stage: Stage) -> None:
    await stage.log_in()
    async with stage.sessions() as db:
        row = (await db.execute(text("SELECT * FROM spotify_tokens"))).one()
        stage.keep(row, *row)


SEALED_ACTS: Final[dict[str, Act]] = {
    "rotation": _rotate_the_keys,
    "unknown key": _have_no_key,
    "changed envelope": _find_it_changed,
    "stored text": _read_what_is_stored,
    "flush": _flush,
}
"""What is done with tokens that are encrypted: the drivers' errors may show what is stored."""


# the controls


WRITTEN: Final[dict[str, Callable[[str], bytes]]] = {
    "as it is": str.encode,
    "without its end": lambda token: token[:20].encode(),
    "without its begin": lambda token: token[20:].encode(),
    "shortened": lambda token: reprlib.repr([token]).encode(),
    "UTF-16": lambda token: token.encode("utf-16"),
    "UTF-16-BE": lambda token: token.encode("utf-16-be"),
    "hexadecimal": lambda token: token.encode().hex().encode(),
    "base64": lambda token: base64.b64encode(token.encode()),
    "base64 after one": lambda token: base64.b64encode(f".{token}.".encode()),
    "base64 after two": lambda token: base64.b64encode(f"..{token}..".encode()),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_a_token_is_found_however_it_is_written(written: Callable[[str], bytes]) -> None:
    """And no other is."""
    canaries = Canaries()

    assert canaries.seen_in(b"..." + written(canaries.new()) + b"...") != []
    assert canaries.seen_in(b"..." + written(Canaries().new()) + b"...") == []


async def test_what_is_planted_without_a_key_ring_is_found(
    place: Place, caplog: pytest.LogCaptureFixture, talkative: None
) -> None:
    """In the log of a program that logs a token, and on the disk in all that is looked at."""
    async with _staged(place, caplog, None) as stage:
        with pytest.warns(TokenInClear) as warned:
            token = await stage.log_in()
        stage.keep(*(each.message for each in warned))
        assert stage.seen() == []
        logging.getLogger("an application").debug("got %s", token.access_token)
        assert len(stage.seen()) > 0
        stage.caplog.clear()
        stage.keep(str(token.refresh_token))
        assert len(stage.seen()) > 0
        await _assert_is_in_all_files(stage)


async def _assert_is_in_all_files(stage: Stage) -> None:
    found = {place.partition(":")[0] for place in await stage.on_disk()}
    if stage.place.server is None:
        assert found == {"zotify.db-wal as it is"}
        await stage.engine.dispose()
        assert len(stage.in_files()) == 1
    else:
        folders = {"/".join(place.split("/")[:2]) for place in found}
        assert folders == {"log as it is", "data/base", "data/pg_wal"}


# the tests


@pytest.mark.parametrize("act", [*ACTS, *SEALED_ACTS])
async def test_nothing_shows_a_token(stage: Stage, act: str) -> None:
    """Neither the program, nor the database's log, nor a file of it while it is open."""
    await {**ACTS, **SEALED_ACTS}[act](stage)

    names = {record.name for record in stage.caplog.records}
    assert names >= {"asyncio", "sqlalchemy.engine.Engine"}
    assert stage.seen() == []
    assert await stage.on_disk() == []


@pytest.mark.parametrize("act", ACTS)
async def test_without_a_key_ring_the_program_shows_no_token_either(
    clear_stage: Stage, act: str
) -> None:
    """What the database then stores and logs is another matter."""
    await ACTS[act](clear_stage)

    assert clear_stage.seen() == []


async def test_a_database_at_rest_has_no_token_in_its_files(
    place: Place, caplog: pytest.LogCaptureFixture, talkative: None
) -> None:
    """Whatever was done before it was closed."""
    async with _staged(place, caplog, RING) as stage:
        for act in (*ACTS.values(), *SEALED_ACTS.values()):
            await stage.reset()
            await act(stage)

    with stage.place.at_rest():
        assert stage.in_files() == []


class _Abort(BaseException):
    """What is no error, such as the end of a task group or of a test."""


async def test_what_is_no_error_and_ends_a_refresh_is_not_logged_with_the_token(
    place: Place, caplog: pytest.LogCaptureFixture, talkative: None
) -> None:
    """It goes to the caller as it is; the library's own log does not repeat what it says."""
    async with _staged(place, caplog, RING) as stage:
        await stage.log_in(expires_at=EPOCH)

        async def refresh(refresh_token: str) -> Mapping[str, Any]:
            raise _Abort(f"cannot send {refresh_token}")

        with pytest.raises(_Abort):
            await get_valid_spotify_token(stage.sessions, refresh)
        assert stage.seen() == []
        assert await stage.on_disk() == []


async def _columns(stage: Stage) -> bytes:
    async with stage.sessions() as db:
        row = (
            await db.execute(text("SELECT access_token, refresh_token FROM spotify_tokens"))
        ).one()
        return _encoded(" ".join(row))


@pytest.mark.parametrize("write", [_log_in, _update, _rotate])
async def test_a_token_in_clear_is_gone_from_its_columns_once_it_is_written_with_a_ring(
    clear_stage: Stage, write: Step
) -> None:
    """And is read as before. Old pages and logs of the database may have it for some time."""
    before = await clear_stage.log_in()
    assert clear_stage.canaries.seen_in(await _columns(clear_stage)) != []
    clear_stage.caplog.clear()

    encryption.use_keyring(clear_stage.engine, RING)
    async with clear_stage.sessions.begin() as db:
        await write(clear_stage, db)
        after = await crud.get_spotify_token(db)

    assert after is not None
    assert (after.refresh_token == before.refresh_token) == (write is not _log_in)
    assert (after.access_token == before.access_token) == (write is _rotate)
    assert clear_stage.seen() == []
    assert clear_stage.canaries.seen_in(await _columns(clear_stage)) == []


def test_what_holds_a_token_is_not_pickled_and_shows_nothing_also_as_a_copy() -> None:
    """A cache or a task queue would write it down. The copies have the token."""
    canaries = Canaries()
    answer = {"access_token": canaries.new(), "refresh_token": canaries.new(), "expires_in": _HOUR}
    data = schemas.SpotifyTokenData.model_validate(answer)
    token = SpotifyToken(access_token=data.access_token, refresh_token=data.refresh_token)
    _assert_no_pickle(RING, data, token, [token], {"t": data}, data.access_token, vars(token))

    for holder in (data, token):
        for each in (holder, copy.copy(holder), copy.deepcopy(holder)):
            assert (each.access_token, each.refresh_token) == (*answer.values(),)[:2]
            shown = f"{each} {each!r} {vars(each)} {[each]} {pprint.pformat(each)}"
            assert canaries.seen_in(shown.encode()) == []
            _assert_no_pickle(each)
