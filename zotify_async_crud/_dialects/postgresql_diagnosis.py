"""What can be wrong with a PostgreSQL server, its settings, or the way to it."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from zotify_async_crud._dialects.connections import dedicated
from zotify_async_crud._dialects.diagnosis import Check, Finding, failed, ok, version, warning

_OLDEST: Final = (15,)
"""The oldest that is maintained (https://www.postgresql.org/support/versioning/)."""

_CLOCKS: Final = 2.0
"""Seconds by which clocks may differ that are set by the network."""

_ROUNDS: Final = 3
_CHANNEL: Final = "zotify_doctor"
_PATIENCE: Final = 2.0
"""Seconds after which a notification is given up."""

_TAKES_NO_WRITES: Final = text(
    "SELECT pg_is_in_recovery() OR CAST(current_setting('default_transaction_read_only') AS bool)"
)
_MISSING_PRIVILEGES: Final = text(
    """
    SELECT privilege || ' on ' || name
    FROM unnest(CAST(:tables AS text[])) AS found (name),
        unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
    WHERE NOT has_table_privilege(to_regclass(quote_ident(name)), privilege)
    ORDER BY name, privilege
    """
)


def checks(tables: Collection[str], *, pgbouncer: bool) -> Mapping[str, Check]:
    """Return the checks by their names; they are about *tables*, if these are there.

    *pgbouncer* is what the engine was made with.
    """
    return {
        "version": functools.partial(version, oldest=_OLDEST),
        "clock": clock,
        "pooler": functools.partial(_pooler, pgbouncer=pgbouncer),
        "writes": _writes,
        "privileges": functools.partial(_privileges, tables=tables),
        "wake-ups": _wake_ups,
    }


async def clock(engine: AsyncEngine, now: Callable[[], float] = time.time) -> Finding:
    """Compare the server's clock with that of this machine."""
    async with engine.connect() as connection:
        sent = now()
        server = await connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())"))
        received = now()
    ahead, unsure = float(server or 0) - (sent + received) / 2, (received - sent) / 2
    detail = f"the server's is {ahead:+.3f} s from this machine's"
    if abs(ahead) - unsure <= _CLOCKS:
        return ok(detail)
    return warning(detail, "let NTP set both: times that a service gives are compared with it")


async def _pooler(engine: AsyncEngine, *, pgbouncer: bool) -> Finding:
    """Tell whether statements of one connection reach several processes of the server.

    Two connections have a process each, for ever, unless a pooler lends them one for a transaction.
    What a pooler calls a process is none of the server's.
    """
    async with dedicated(engine) as one, dedicated(engine) as other:
        processes: list[set[int]] = [set(), set()]
        for _ in range(_ROUNDS):
            for driver, found in zip((one, other), processes, strict=True):
                found.add(await _process_of(driver, len(found)))
        called = {driver.get_server_pid() for driver in (one, other)}
    if len(processes[0] | processes[1]) == len(processes) and not processes[0] & processes[1]:
        pooled = called != processes[0] | processes[1]
        return ok("one that keeps sessions together" if pooled else "none")
    if pgbouncer:
        return ok("one in transaction mode, for which the engine is set up")
    return failed(
        "one in transaction mode, which loses what is prepared",
        "give --pgbouncer here, and create_engine(pgbouncer=True) in a service",
    )


async def _process_of(driver: Any, number: int) -> int:
    # another statement each time, since the process may not know what was prepared before
    async with driver.transaction():
        process: int = await driver.fetchval(f"SELECT pg_backend_pid() AS number_{number}")
    return process


async def _writes(engine: AsyncEngine) -> Finding:
    async with engine.connect() as connection:
        if await connection.scalar(_TAKES_NO_WRITES):
            return failed("the server takes none", "connect to the primary server")
    return ok("the server takes them")


async def _privileges(engine: AsyncEngine, *, tables: Collection[str]) -> Finding:
    async with engine.connect() as connection:
        missing = list(await connection.scalars(_MISSING_PRIVILEGES, {"tables": list(tables)}))
    if missing:
        return failed(f"missing: {', '.join(missing)}", "GRANT them to the role")
    return ok("all that are needed")


async def _wake_ups(engine: AsyncEngine) -> Finding:
    heard = asyncio.Event()
    async with dedicated(engine) as listener, dedicated(engine) as notifier:
        await listener.add_listener(_CHANNEL, lambda *_: heard.set())
        await notifier.execute(f"NOTIFY {_CHANNEL}")
        try:
            async with asyncio.timeout(_PATIENCE):
                await heard.wait()
        except TimeoutError:
            return warning(
                "NOTIFY does not arrive: workers find new jobs by polling only",
                "connect the workers to the server itself, or to a pooler in session mode",
            )
    return ok("NOTIFY arrives")
