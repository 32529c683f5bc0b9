"""What a pickle builds where it asks for something to be imported or called: nothing.

These objects record the request. They have no behaviour that a file could use.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Global:
    """The name of something importable, which is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True, repr=False)
class Opaque:
    """An object that a pickle would have made by a call.

    Attributes:
        function: what would have been called; a `Global` unless the file is strange.
        args: with what.
        state: what would have become its attributes.
        entries: what would have been set by key.
        elements: what would have been appended.
    """

    function: Any
    args: Any = ()
    state: Any = None
    entries: dict[Any, Any] | None = None
    elements: list[Any] | None = None

    def __repr__(self) -> str:
        return f"<inert {name_of(self.function)}>"


@dataclass(eq=False, slots=True)
class LongText:
    """Text that is too long for a name: an array that protocol 2 wrote as text.

    Attributes:
        data: UTF-8, in the file.
        encoded: the array's bytes, once they were asked for.
    """

    data: memoryview
    encoded: memoryview | None = None


def name_of(function: Any) -> str:
    """Return the name of what would have been called, nothing if it has none.

    Not `str`: a hostile file can nest a value deeper than Python can print.
    """
    return str(function) if isinstance(function, Global) else ""
