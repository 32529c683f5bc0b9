"""The state of a pickle machine: position, stack, memo, and a budget of work.

Whatever a file claims is compared with the bytes that are there. All pickles of a file
share one budget of operations, which bounds time and memory.
"""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from weights_convert.readers.inert import Opaque, name_of
from weights_convert.readers.tensors import CheckpointError, show

Builder = Callable[..., Any]

# Weights, averages and optimiser of 700 tensors take 120 000 operations.
MAX_OPERATIONS = 500_000
MAX_LINE_BYTES = 256
_CHARACTERS_PER_OPERATION = 256


class Budget:
    """How many more operations the pickles of a file may take."""

    def __init__(self, operations: int = MAX_OPERATIONS) -> None:
        self._left = operations

    def spend(self, operations: int) -> None:
        """Take from the budget.

        Raises:
            CheckpointError: if there is nothing left.
        """
        self._left -= operations
        if self._left < 0:
            raise CheckpointError(
                "the file takes more operations to read than any checkpoint does and "
                "may be hostile; save the state dict alone."
            )


def no_storages(name: Any) -> Any:
    """Refuse a persistent id: only PyTorch's own formats have them."""
    raise CheckpointError(
        f"a plain pickle refers to an object outside of it, {show(name)}; save the "
        "state dict with torch.save."
    )


def _cost(argument: Any) -> int:
    """Return the operations that a copy of an argument counts for."""
    if isinstance(argument, list | tuple):
        return len(argument)
    return len(argument) // _CHARACTERS_PER_OPERATION if type(argument) is str else 0


class Machine:
    """Stack, marks, memo and the bytes that drive them.

    Attributes:
        position: of the next byte to read.
        budget: shared with the other pickles of the file.
    """

    def __init__(
        self,
        data: memoryview,
        builders: Mapping[str, Builder],
        budget: Budget,
        find_storage: Callable[[Any], Any] = no_storages,
    ) -> None:
        self.position = 0
        self.budget = budget
        self._data = data
        self._builders = builders
        self._find_storage = find_storage
        self.reset()

    def reset(self) -> None:
        """Forget everything but the position and the budget."""
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def take(self, length: int) -> memoryview:
        """Return the next bytes of the file, uncopied.

        Raises:
            CheckpointError: if there are not as many.
        """
        taken = self._data[self.position : self.position + length]
        if len(taken) < length:
            raise self._cut_short(length)
        self.position += length
        return taken

    def byte(self) -> int:
        """Return the byte that comes next."""
        if self.position >= len(self._data):
            raise self._cut_short(1)
        self.position += 1
        return self._data[self.position - 1]

    def number(self, layout: struct.Struct) -> Any:
        """Return the number that comes next."""
        start = self.position
        if start + layout.size > len(self._data):
            raise self._cut_short(layout.size)
        self.position += layout.size
        return layout.unpack_from(self._data, start)[0]

    def _cut_short(self, length: int) -> CheckpointError:
        return CheckpointError(
            f"{length} bytes are claimed at byte {self.position} and "
            f"{len(self._data) - self.position} are left; the file is cut short or "
            "damaged: download it again."
        )

    def line(self) -> str:
        """Return the text up to the next line feed."""
        window = bytes(self._data[self.position : self.position + MAX_LINE_BYTES])
        length = window.find(b"\n")
        if length < 0:
            raise ValueError("a name without an end")
        self.position += length + 1
        return window[:length].decode()

    def push(self, value: Any) -> None:
        """Put a value on the stack."""
        self._stack.append(value)

    def pop(self) -> Any:
        """Take the last value from the stack, but none from below a mark."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("a value is missing")
        return self._stack.pop()

    def top(self) -> Any:
        """Return the last value and leave it."""
        self.push(value := self.pop())
        return value

    def mark(self) -> None:
        """Begin a group of values."""
        self._marks.append(len(self._stack))

    def pop_marked(self) -> list[Any]:
        """Take the values since the last mark."""
        if not self._marks:
            raise ValueError("a mark is missing")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def memoize(self) -> None:
        """Store the last value under the next number."""
        self.remember(len(self._memo))

    def remember(self, index: int) -> None:
        """Store the last value in the memo."""
        self._memo[index] = self.top()

    def recall(self, index: int) -> None:
        """Push a value of the memo."""
        if index not in self._memo:
            raise ValueError(f"a reference to {index}, which is not there")
        self.push(self._memo[index])

    def call(self, function: Any, args: Any) -> Any:
        """Return what a builder makes of a call, or a record of the call."""
        builder = self._builders.get(name_of(function))
        if builder is None or type(args) is not tuple:
            return Opaque(function, args)
        # A builder may copy what it is given, and may be given the same many times.
        self.budget.spend(sum(map(_cost, args)))
        return builder(*args)

    def find_storage(self) -> None:
        """Replace a persistent id by the storage it names."""
        self.push(self._find_storage(self.pop()))
