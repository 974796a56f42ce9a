"""The command that works off the queue."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Annotated, Final

from cyclopts import Parameter
from cyclopts.validators import Number

from zotify_async_crud import _processes
from zotify_async_crud._processes import Stop
from zotify_async_crud.cli._crew import Crew
from zotify_async_crud.cli._database import checked
from zotify_async_crud.cli._options import HERE, AsJson, Target, whole
from zotify_async_crud.cli._output import show_json
from zotify_async_crud.cli._worker import ERRORS, LOG, OUTPUT, Order, logging_to_stderr, work
from zotify_async_crud.worker import Counts

_HANDLER: Final = Parameter(
    help="The coroutine function that does a job: MODULE:NAME, such as downloads:download."
)
_PROCESSES: Final = Parameter(
    help="How many processes share the queue: this one alone, or so many that it starts.",
    converter=whole,
    validator=Number(gte=1, lte=32),
)
_CONCURRENCY: Final = Parameter(help="How many jobs each process does at once.", converter=whole)
_LEASE: Final = Parameter(
    help="Seconds after which another worker takes the jobs of one that was killed."
)
_PATIENCE: Final = Parameter(
    help="Seconds that jobs have to end, once it is to stop, before they are given back."
)
_UNTIL_IDLE: Final = Parameter(help="End when no job is due and none is running.", negative=())


async def run_work(  # noqa: PLR0913 - what is asked for on the command line
    handler: Annotated[str, _HANDLER],
    /,
    *,
    target: Target = HERE,
    processes: Annotated[int, _PROCESSES] = 1,
    concurrency: Annotated[int, _CONCURRENCY] = 10,
    lease: Annotated[float, _LEASE] = 60.0,
    shutdown_timeout: Annotated[float, _PATIENCE] = 30.0,
    until_idle: Annotated[bool, _UNTIL_IDLE] = False,
    json: AsJson = False,
) -> None:
    """Work off the queue by a coroutine function of yours, until it is told to stop.

    SIGTERM or Ctrl-C lets the jobs that run end; a second one stops them at once, and gives them
    back. The log, and what the handler prints, goes to stderr. A process that dies is replaced.
    """
    order = Order(
        handler=handler,
        target=target,
        concurrency=concurrency,
        lease=lease,
        shutdown_timeout=shutdown_timeout,
        until_idle=until_idle,
    )
    with _output_to_stderr(), logging_to_stderr():
        counts = await _work(order, processes)
    if json:
        show_json(counts)


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    """Keep stdout for the figures: what handlers print goes to stderr, and what they start, too."""
    sys.stdout.flush()
    output = os.dup(OUTPUT)
    os.dup2(ERRORS, OUTPUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(output, OUTPUT)
        os.close(output)


async def _work(order: Order, processes: int) -> Counts:
    async with checked(order.target) as sessions:
        order.pool(sessions)  # it says what is wrong, before processes do that cannot begin
        LOG.info("%s works on up to %d jobs at once", order.handler, processes * order.concurrency)
        if processes == 1:
            counts = await work(order, sessions, _obeying_signals)
        else:
            crew = Crew(order, processes)
            with _obeying_signals(crew.stop):
                counts = await crew.run()
    done = dataclasses.asdict(counts).items()
    LOG.info("stopped: %s", ", ".join(f"{number:,} {name}" for name, number in done))
    return counts


def _obeying_signals(stop: Stop) -> AbstractContextManager[None]:
    async def logged() -> None:
        LOG.info("asked to stop")
        await stop()

    return _processes.obeying_signals(logged)
