"""Handlers that are named on the command line."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import operator
import os
import re
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from zotify_async_crud.errors import InvalidValue
from zotify_async_crud.worker import Handler, JobContext

_LOG: Final = logging.getLogger("zotify_async_crud.work")
_NAME: Final = re.compile(r"([^\s:]+):([^\s:]+)")
_NOT_THEIRS: Final = (
    "<frozen ",
    __file__,
    *(sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib")),
)
"""How the paths of code begin that is no part of what somebody has written for this program."""


def import_handler(name: str) -> Handler:
    """Return the coroutine function that MODULE:NAME is; the current folder is looked into first.

    What it raises is logged in one line.

    Raises:
        InvalidValue: There is no such thing, or it is no coroutine function.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise InvalidValue("handler", "Input should be MODULE:NAME, such as downloads:download")
    module, attribute = found.groups()
    imported = _import(module)
    try:
        handler = operator.attrgetter(attribute)(imported)
    except AttributeError:
        raise InvalidValue("handler", f"the module {module} has no {attribute}") from None
    except (Exception, SystemExit) as error:
        raise _failed(module, error) from error
    if not _is_coroutine_function(handler):
        raise InvalidValue("handler", f"{name} is no coroutine function: define it by async def")
    return _logged(handler)


def _import(name: str) -> ModuleType:
    here = os.getcwd()  # noqa: PTH109 - as text, as the others are
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, error) from error
    except (Exception, SystemExit) as error:
        raise _failed(name, error) from error
    raise InvalidValue("handler", f"there is no module {name}, in this folder or installed")


def _failed(module: str, error: BaseException) -> InvalidValue:
    return InvalidValue("handler", f"the import of {module} failed: {described(error)}")


def _is_coroutine_function(handler: Any) -> bool:
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - not whether, but what
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


def _logged(handler: Handler) -> Handler:
    @functools.wraps(handler)
    async def logged(job: JobContext) -> None:
        try:
            await handler(job)
        except Exception as error:
            attempt = f"attempt {job.attempt} of {job.claim.max_attempts}"
            _LOG.warning("job %s, %s: %s", job.job_id, attempt, described(error))
            raise

    return logged


def described(error: BaseException) -> str:
    """Return one line: what *error* is, what it says, and where in their code it was raised."""
    said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    places = [
        f" ({Path(frame.f_code.co_filename).name}, line {line})"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith(_NOT_THEIRS)
    ]
    return said + "".join(places[-1:])
