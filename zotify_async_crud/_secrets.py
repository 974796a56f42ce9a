"""Values that do not show themselves where programs show their data: in reprs, logs and pickles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn, Self, SupportsIndex

_HIDDEN: Final = "'**********'"


class SecretValue(str):
    """A string that hides itself in reprs, and so in echoed parameters, rows and locals."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _HIDDEN

    def __getitem__(self, place: SupportsIndex | slice) -> SecretValue:
        # what shortens a long value to show it takes a slice of it
        return SecretValue(super().__getitem__(place))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


class Hidden:
    """Holds a mapping with secrets, so that no traceback that shows locals shows them."""

    __slots__ = ("content",)

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    def __repr__(self) -> str:
        return _HIDDEN
