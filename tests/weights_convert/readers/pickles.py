"""Pickles written opcode by opcode, so that they can name what is not installed."""

import struct
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Name:
    """A global, by its name alone."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """A call, what is then set by key, and the state of the object."""

    function: Any
    args: tuple = ()
    entries: dict | None = None
    state: Any = None


@dataclass(frozen=True, eq=False)
class Persistent:
    """An object outside of the pickle."""

    key: Any


@dataclass(frozen=True)
class Raw:
    """Opcodes as they are."""

    opcodes: bytes


ORDERED_DICT = Name("collections", "OrderedDict")


def ordered(entries: dict) -> Call:
    """An OrderedDict, which is how a state dict is saved."""
    return Call(ORDERED_DICT, (), entries)


def dumps(value: Any, protocol: int = 2) -> bytes:
    return bytes([0x80, protocol]) + opcodes(value) + b"."


def opcodes(value: Any) -> bytes:
    """Return the opcodes that push a value."""
    return _WRITERS[type(value)](value)


def _each(values) -> bytes:
    return b"".join(map(opcodes, values))


def _integer(value: int) -> bytes:
    length = value.bit_length() // 8 + 1
    return bytes([0x8A, length]) + value.to_bytes(length, "little", signed=True)


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _long_bytes(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def _entries(entries: dict) -> bytes:
    return b"(" + _each(v for pair in entries.items() for v in pair) + b"u"


def _call(call: Call) -> bytes:
    made = opcodes(call.function) + opcodes(call.args) + b"R"
    made += _entries(call.entries) if call.entries else b""
    return made + (opcodes(call.state) + b"b" if call.state is not None else b"")


_WRITERS = {
    type(None): lambda value: b"N",
    bool: lambda value: b"\x88" if value else b"\x89",
    int: _integer,
    float: lambda value: b"G" + struct.pack(">d", value),
    str: _text,
    bytes: _long_bytes,
    tuple: lambda value: b"(" + _each(value) + b"t",
    list: lambda value: b"](" + _each(value) + b"e",
    dict: lambda value: b"}" + _entries(value),
    Name: lambda value: f"c{value.module}\n{value.name}\n".encode(),
    Call: _call,
    Persistent: lambda value: opcodes(value.key) + b"Q",
    Raw: lambda value: value.opcodes,
}
