"""Reads the lists of a JSON file of any size, an entry at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import ijson
from pydantic_core import from_json

_SMALL: Final = 64 * 2**20
"""Bytes of a file that may be read whole, to tell what is wrong with it."""

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

_IN_LIST: Final = 2
_DEEPEST: Final = 100
_STEPS: Final = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}


def entries_of(file: BinaryIO, lists: Collection[str]) -> Iterator[tuple[str, Any]]:
    """Yield what stands in these *lists* of an object, one by one, each with the key of its list.

    Raises:
        ijson.JSONError: It is no JSON, or nested too deeply.
    """
    if file.read(len(_BYTE_ORDER_MARK)) != _BYTE_ORDER_MARK:
        file.seek(0)
    key, in_list, depth = "", False, 0
    for event, value in (events := ijson.basic_parse(file, use_float=True)):
        depth += _STEPS.get(event, 0)
        if depth == 1:
            key, in_list = value if event == "map_key" else key, False
        elif depth > 1 and event == "start_array" and not in_list:
            in_list = depth == _IN_LIST and key in lists
        elif in_list:
            yield key, _built(event, value, events)
            depth = _IN_LIST
        if depth > _DEEPEST:  # parsers that note the path to each place run out of memory
            raise ijson.JSONError("nested too deeply")


def _built(event: str, value: Any, events: Iterator[tuple[str, Any]]) -> Any:
    """Return the value that begins with *event*, and whose others come next."""
    builder = ijson.ObjectBuilder()
    builder.event(event, value)
    depth = _STEPS.get(event, 0)
    while depth:
        event, value = next(events)
        builder.event(event, value)
        depth += _STEPS.get(event, 0)
        if depth > _DEEPEST:
            raise ijson.JSONError("nested too deeply")
    return builder.value


def text_if_small(file: BinaryIO) -> str | None:
    """Return the whole file, if it may be read whole.

    Raises:
        UnicodeDecodeError: It is no UTF-8.
    """
    file.seek(0)
    content = file.read(_SMALL + 1)
    return None if len(content) > _SMALL else content.decode("utf-8-sig")


def explained(path: Path, error: ijson.JSONError) -> str:
    """Return what is wrong with the JSON and where; the streaming parser says where only seldom."""
    try:
        with path.open("rb") as file:
            text = text_if_small(file)
        if text is not None:
            from_json(text)
    except UnicodeDecodeError as undecodable:
        return f"byte {undecodable.start} is not UTF-8"
    except ValueError as invalid:
        return f"Invalid JSON: {invalid}"
    return f"Invalid JSON: {str(error).partition(chr(10))[0]}"
