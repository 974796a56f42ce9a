"""Processes that this one starts, and that do not outlive it; and what asks a process to stop.

Each has a pipe as its standard input. The first line says what to do. What comes after it asks the
process to stop, and so does the end, which also comes when this process is killed. No signal is
needed, and none of a terminal arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import sys
import threading
from asyncio import StreamWriter
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Coroutine, Iterator, Mapping
from types import FrameType
from typing import Any, Final, TypeAlias, cast

Stop: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""Ends the work in good order; at once, when it is called again before that is done."""

_INPUT: Final = 0
_PLEASE_STOP: Final = b"\n"


async def start(*program: str, stderr: int | None = None) -> Process:
    """Start this interpreter on *program*, which reads ``what_to_do``; its output is a pipe."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", *program),
        stdin=PIPE,
        stdout=PIPE,
        stderr=stderr,
        # it finds what this process finds, and nothing in the folder where it is started
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,  # Ctrl-C is for this process, which tells the others
    )


def tell(process: Process, what_to_do: Mapping[str, object]) -> None:
    """Say what a process that was just started is to do."""
    _write(process, json.dumps(what_to_do).encode() + b"\n")


def ask_to_stop(process: Process) -> None:
    """Let a process end in good order; at once, if it was asked before."""
    _write(process, _PLEASE_STOP)


async def end(process: Process, ended: asyncio.Future[Any], patience: float) -> None:
    """Ask a process to stop by the end of its input, and kill it after *patience* seconds."""
    cast(StreamWriter, process.stdin).close()
    await asyncio.wait({ended}, timeout=patience)
    if not ended.done():
        kill(process)
        await asyncio.wait({ended})


def kill(process: Process) -> None:
    """Kill a process, which may have ended just now."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _write(process: Process, data: bytes) -> None:
    cast(StreamWriter, process.stdin).write(data)


def what_to_do() -> dict[str, Any]:
    """Return what the process that started this one has said."""
    # without a buffer, where a request to stop would stay unseen
    order: dict[str, Any] = json.loads(io.FileIO(_INPUT, closefd=False).readline())
    return order


@contextlib.contextmanager
def obeying_input(stop: Stop) -> Iterator[None]:
    """Call *stop* whenever this process is asked to stop while the block runs, or left alone."""
    loop, request = asyncio.get_running_loop(), _Requests(stop)

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, since the work is over
            while os.read(_INPUT, 1):
                loop.call_soon_threadsafe(request)
            loop.call_soon_threadsafe(request)

    # not by asyncio.to_thread, whose threads are waited for
    threading.Thread(target=read, daemon=True).start()
    yield


@contextlib.contextmanager
def obeying_signals(stop: Stop) -> Iterator[None]:
    """Call *stop* whenever SIGTERM or SIGINT arrives while the block runs."""
    loop, request = asyncio.get_running_loop(), _Requests(stop)

    # not by the loop's own means, which Windows has not
    def call(_: int, __: FrameType | None) -> None:
        loop.call_soon_threadsafe(request)

    before = {number: signal.signal(number, call) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Requests:
    """Calls a coroutine as often as it is called itself."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._begun: list[asyncio.Task[None]] = []  # the loop itself keeps no task alive

    def __call__(self) -> None:
        self._begun.append(asyncio.create_task(self._stop()))
