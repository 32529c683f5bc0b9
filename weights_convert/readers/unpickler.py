"""Unpickling that cannot call anything.

Python's own unpickler imports and calls what the file names. This one knows the same
opcodes and builds numbers, text, containers and inert records (`inert.py`); the few
functions a checkpoint needs are given to it as a table of builders. Long byte strings
stay in the file.

The text opcodes of protocols 0 and 1 are left out: PyTorch writes protocol 2 or later.
"""

import struct
from collections.abc import Callable
from typing import Any

from weights_convert.readers.inert import Global, LongText, Opaque
from weights_convert.readers.machine import Machine
from weights_convert.readers.tensors import CheckpointError, show

MAX_INTEGER_BYTES = 16
MAX_TEXT_BYTES = 1 << 20
_STOP = ord(".")


class Unpickler(Machine):
    """Reads the pickles that follow one another in some bytes."""

    def load(self) -> Any:
        """Return the object of the next pickle.

        Raises:
            CheckpointError: if the pickle is damaged, cut short or hostile.
        """
        self.reset()
        start = self.position
        try:
            while (opcode := self.byte()) != _STOP:
                self.budget.spend(1)
                _OPCODES.get(opcode, _unknown)(self)
            return self.pop()
        except CheckpointError:
            raise
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            # What Python says of it is about this program, not about the file.
            reason = str(error) if type(error) is ValueError else "its parts do not fit"
            raise CheckpointError(
                f"the pickle at byte {start} is damaged near byte {self.position}: "
                f"{show(reason)}; download the file again."
            ) from error


def _unknown(_machine: Machine) -> None:
    raise ValueError("an unknown opcode")


def _key(value: Any) -> Any:
    """Return a dictionary key that is cheap to hash, whatever the file wants.

    Deep tuples overflow the C stack when hashed, and long integers can be chosen to
    collide; such keys occur in optimiser states only and are compared by identity.
    """
    is_long = type(value) is int and value.bit_length() > 63
    is_simple = isinstance(value, str | int | float | None | Global | Opaque)
    return value if is_simple and not is_long else Opaque(None, value)


def _set_items(target: Any, values: list[Any]) -> None:
    if isinstance(target, Opaque):
        target.entries = {} if target.entries is None else target.entries
        target = target.entries
    if type(target) is not dict or len(values) % 2:
        raise ValueError("entries for what is no dictionary")
    target.update(zip(map(_key, values[::2]), values[1::2], strict=True))


def _append(target: Any, values: list[Any]) -> None:
    if isinstance(target, Opaque):
        target.elements = [] if target.elements is None else target.elements
        target = target.elements
    if type(target) is not list:
        raise ValueError("elements for what is no list")
    target.extend(values)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _set_items(machine.top(), [key, value])


def _append_one(machine: Machine) -> None:
    value = machine.pop()
    _append(machine.top(), [value])


def _set_marked(machine: Machine) -> None:
    values = machine.pop_marked()
    _set_items(machine.top(), values)


def _append_marked(machine: Machine) -> None:
    values = machine.pop_marked()
    _append(machine.top(), values)


def _tuple_of(length: int) -> Callable[[Machine], None]:
    def make(machine: Machine) -> None:
        values = [machine.pop() for _ in range(length)]
        machine.push(tuple(reversed(values)))

    return make


def _build(machine: Machine) -> None:
    """Record the attributes of an object; those of containers say nothing we need."""
    state = machine.pop()
    if isinstance(target := machine.top(), Opaque):
        target.state = state


def _reduce(machine: Machine) -> None:
    args, function = machine.pop(), machine.pop()
    machine.push(machine.call(function, args))


def _new_object_with_keywords(machine: Machine) -> None:
    keywords, args, function = machine.pop(), machine.pop(), machine.pop()
    machine.push(Opaque(function, (args, keywords)))


def _global(machine: Machine) -> None:
    machine.push(Global(machine.line(), machine.line()))


def _global_from_stack(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if type(name) is not str or type(module) is not str:
        raise ValueError("a global whose name is no text")
    machine.push(Global(module, name))


def _pop(machine: Machine) -> None:
    machine.pop()


def _pop_marked(machine: Machine) -> None:
    machine.pop_marked()


def _integer(machine: Machine, length: int) -> None:
    if length > MAX_INTEGER_BYTES:
        raise ValueError(f"an integer of {length} bytes")
    machine.push(int.from_bytes(machine.take(length), "little", signed=True))


def _text(machine: Machine, length: int) -> None:
    """Push text; longer than source code are only arrays written as text."""
    data = machine.take(length)
    is_long = length > MAX_TEXT_BYTES
    machine.push(LongText(data) if is_long else str(data, "utf-8"))


def _string(machine: Machine, length: int) -> None:
    """Push a string of Python 2: text where it can be, bytes where not."""
    data = machine.take(length)
    if length > MAX_TEXT_BYTES:
        raise ValueError(f"a string of {length} bytes")
    machine.push(str(data, "ascii") if bytes(data).isascii() else bytes(data))


def _short_bytes(machine: Machine, length: int) -> None:
    machine.push(bytes(machine.take(length)))


def _long_bytes(machine: Machine, length: int) -> None:
    machine.push(machine.take(length))


def _frame(machine: Machine, length: int) -> None:
    """Check that a frame lies in the file; its opcodes follow and are read singly."""
    machine.take(length)
    machine.position -= length


def _protocol(machine: Machine, number: int) -> None:
    if number > 5:
        raise ValueError(f"pickle protocol {number}, which does not exist")


def _constant(value: Any) -> Callable[[Machine], None]:
    return lambda machine: machine.push(value)


def _fresh(kind: type) -> Callable[[Machine], None]:
    return lambda machine: machine.push(kind())


def _plain_number(layout: str) -> Callable[[Machine], None]:
    packed = struct.Struct(layout)
    return lambda machine: machine.push(machine.number(packed))


def _numbered(
    layout: str, action: Callable[[Machine, int], None]
) -> Callable[[Machine], None]:
    """Return what reads an unsigned number, mostly a length, and acts on it."""
    packed = struct.Struct(layout)
    return lambda machine: action(machine, machine.number(packed))


# Sets become lists: nothing here needs their elements hashed.
_OPCODES: dict[int, Callable[[Machine], None]] = {
    0x80: _numbered("<B", _protocol),
    0x95: _numbered("<Q", _frame),
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("K"): _plain_number("<B"),
    ord("M"): _plain_number("<H"),
    ord("J"): _plain_number("<i"),
    ord("G"): _plain_number(">d"),
    0x8A: _numbered("<B", _integer),
    0x8B: _numbered("<I", _integer),
    0x8C: _numbered("<B", _text),
    ord("X"): _numbered("<I", _text),
    0x8D: _numbered("<Q", _text),
    ord("U"): _numbered("<B", _string),
    ord("T"): _numbered("<I", _string),
    ord("C"): _numbered("<B", _short_bytes),
    ord("B"): _numbered("<I", _long_bytes),
    0x8E: _numbered("<Q", _long_bytes),
    0x96: _numbered("<Q", _long_bytes),
    ord("q"): _numbered("<B", Machine.remember),
    ord("r"): _numbered("<I", Machine.remember),
    0x94: Machine.memoize,
    ord("h"): _numbered("<B", Machine.recall),
    ord("j"): _numbered("<I", Machine.recall),
    ord("("): Machine.mark,
    ord("0"): _pop,
    ord("1"): _pop_marked,
    ord("2"): lambda machine: machine.push(machine.top()),
    ord(")"): _fresh(tuple),
    0x85: _tuple_of(1),
    0x86: _tuple_of(2),
    0x87: _tuple_of(3),
    ord("t"): lambda machine: machine.push(tuple(machine.pop_marked())),
    ord("]"): _fresh(list),
    ord("a"): _append_one,
    ord("e"): _append_marked,
    ord("}"): _fresh(dict),
    ord("s"): _set_item,
    ord("u"): _set_marked,
    0x8F: _fresh(list),
    0x90: _append_marked,
    0x91: lambda machine: machine.push(machine.pop_marked()),
    ord("c"): _global,
    0x93: _global_from_stack,
    ord("R"): _reduce,
    0x81: _reduce,
    0x92: _new_object_with_keywords,
    ord("b"): _build,
    ord("Q"): Machine.find_storage,
}
