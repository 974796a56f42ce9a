"""Keys for tests, and all that an error can show of a secret."""

from __future__ import annotations

import contextlib
import traceback
from pathlib import Path
from typing import Final

from rich.pretty import pretty_repr
from rich.traceback import Traceback

from zotify_async_crud.encryption import TokenKeyring

_TESTS: Final = Path(__file__).parent.parent

KEYS: Final = ("A" * 42 + "E", "B" * 42 + "E", "C" * 42 + "E")
"""Keys that are the same in every process of a run."""

KEYRING: Final = TokenKeyring(KEYS[0])
"""The key ring of the engines that tests get."""


def chain(error: BaseException) -> list[BaseException]:
    """Return *error* and each of its causes and contexts."""
    links = [error]
    for link in links:
        further = (link.__cause__, link.__context__)
        links += [each for each in further if each is not None and each not in links]
    return links


def shown_with_locals(error: BaseException) -> list[str]:
    """Return all that a log of *error* can hold, the local variables of its frames among it.

    Those of the tests are left out: they have the secrets, as every caller has its own.
    """
    shown = []
    for link in chain(error):
        told = traceback.TracebackException.from_exception(link, capture_locals=True)
        frames = [frame for frame in told.stack if not Path(frame.filename).is_relative_to(_TESTS)]
        shown += [f"{link!r} {link} {link.args!r} {vars(link)!r}"]
        shown += [f"{frame.line} {frame.locals}" for frame in frames]
    return shown


def shown_by_rich(error: BaseException) -> list[str]:
    """Return what rich's traceback with locals shows, which shortens long texts by itself."""
    with contextlib.suppress(ValueError):  # of an attribute of a connection that is closed
        trace = Traceback.extract(type(error), error, error.__traceback__, show_locals=True)
        frames = [frame for stack in trace.stacks for frame in stack.frames]
        ours = [each for each in frames if not Path(each.filename).is_relative_to(_TESTS)]
        return [str(node) for frame in ours for node in (frame.locals or {}).values()]
    return []


def shown_short_by_rich(thing: object) -> str:
    """Return what rich shows of *thing*, with at most 80 characters of each text."""
    with contextlib.suppress(ValueError):
        return pretty_repr(thing, max_string=80)
    return ""
