"""Pickles that attack: calls, chains, bombs and claims. None of them is ever run."""

import struct
from collections.abc import Callable
from random import Random
from typing import Any

from tests.weights_convert.fuzzing.mutations import EXTREMES
from tests.weights_convert.readers.pickles import (
    Call,
    Name,
    Persistent,
    Raw,
    dumps,
    opcodes,
    ordered,
)

CANARY = "canary"
COMMAND = f"touch {CANARY}"
CODE = f"open({CANARY!r}, 'w')"
CALLS = (
    Call(Name("os", "system"), (COMMAND,)),
    Call(Name("posix", "system"), (COMMAND,)),
    Call(Name("nt", "system"), (COMMAND,)),
    Call(Name("os", "popen"), (COMMAND,)),
    Call(Name("os", "mkdir"), (CANARY,)),
    Call(Name("os", "putenv"), (CANARY, "1")),
    Call(Name("subprocess", "Popen"), (["touch", CANARY],)),
    Call(Name("subprocess", "check_output"), (["touch", CANARY],)),
    Call(Name("builtins", "eval"), (CODE,)),
    Call(Name("__builtin__", "eval"), (CODE,)),
    Call(Name("builtins", "exec"), (CODE,)),
    Call(Name("builtins", "open"), (CANARY, "w")),
    Call(Name("builtins", "__import__"), ("antigravity",)),
    Call(Name("builtins", "breakpoint")),
    Call(Name("importlib", "import_module"), ("antigravity",)),
    Call(Name("runpy", "_run_code"), (CODE, {})),
    Call(Name("pathlib", "Path.touch"), (CANARY,)),
    Call(Name("pickle", "loads"), (b"cos\nsystem\n(S'true'\ntR.",)),
    Call(Name("torch.load", ""), (CANARY,)),
    Call(Name("torch", "load"), (CANARY,)),
    Call(Name("torch.storage", "_load_from_bytes"), (dumps({"a": 1}),)),
    Call(Name("torch.serialization", "load"), (CANARY,)),
    Call(Name("torch.hub", "load"), (CANARY, "x")),
    Call(Name("numpy", "load"), (CANARY, None, True)),
    Call(Name("numpy.testing._private.utils", "runstring"), (CODE, {})),
    Call(Name("webbrowser", "open"), (f"file:///{CANARY}",)),
    Call(Name("socket", "create_connection"), (("127.0.0.1", 9),)),
    Call(Name("sys", "exit"), (0,)),
    Call(Name("ctypes", "CDLL"), ("libc.so.6",)),
    Call(Name("collections", "OrderedDict.__init__.__globals__"), ()),
)


def _chain(source: Random, _deep: int) -> Any:
    """Return calls on what other calls return, as exploits reach past allow-lists."""
    getattr_ = Name("builtins", "getattr")
    value: Any = Name(*source.choice((("os", "path"), ("torch", "Size"), ("a", "b"))))
    attributes = ("__class__", "__base__", "__subclasses__", "__globals__", "system")
    for _ in range(source.randrange(1, 30)):
        value = Call(getattr_, (value, source.choice(attributes)))
        value = Call(value, (COMMAND,)) if source.random() < 0.3 else value
    return Call(value, (COMMAND,))


def _as_state(source: Random, _deep: int) -> Any:
    """Return a call that hides in the state or the entries of another object."""
    call = source.choice(CALLS)
    host = source.choice((Name("m", "Thing"), Name("collections", "OrderedDict")))
    state = source.choice((call, {"__setstate__": call}, (None, {"x": call})))
    return Call(host, (), {"__reduce__": call, "w": 1}, state)


def _storage(size: int) -> Persistent:
    return Persistent(("storage", Name("torch", "FloatStorage"), "0", "cpu", size))


def _as_part_of_a_tensor(source: Random, _deep: int) -> Any:
    """Return a tensor of which one argument is a call, or a wrong value."""
    storage = _storage(source.choice(EXTREMES))
    good: list[Any] = [storage, 0, (2, 3), (3, 1), False, ordered({})]
    wrong = source.choice((*CALLS, *EXTREMES, "text", None, (1 << 41,), [[]], -1, 0.5))
    good[source.randrange(len(good))] = wrong
    return Call(Name("torch._utils", "_rebuild_tensor_v2"), tuple(good))


def _as_persistent_id(source: Random, _deep: int) -> Any:
    """Return persistent ids within persistent ids, and ids with wrong fields."""
    value: Any = source.choice((*CALLS, "storage", 0, None))
    for _ in range(source.randrange(1, 9)):
        fields = ["storage", Name("torch", "FloatStorage"), "0", "cpu", 12]
        fields[source.randrange(5)] = value
        value = Persistent(tuple(fields[: source.choice((1, 4, 5))]))
    return value


def _as_module(source: Random, _deep: int) -> Any:
    """Return a module whose parts are calls or that holds itself."""
    call = source.choice(CALLS)
    state = {"_parameters": {"w": call}, "_modules": {"m": call}, "_buffers": call}
    state[source.choice(list(state))] = source.choice((3, call, {"x": call}, {}))
    meta = {"type": "class", "module_src": CODE, "class_name": "N", "state": state}
    name = Name("torch_utils.persistence", "_reconstruct_persistent_obj")
    return Call(name, source.choice(((meta,), (), (call,), (meta, call))))


def _direct(source: Random, _deep: int) -> Any:
    return source.choice(CALLS)


def _nested(source: Random, deep: int) -> Any:
    """Return tuples, lists, dictionaries or calls, thousands of levels deep."""
    level = source.choice(
        (b"\x85", b"]q\0h\0a\x86", b"}N", b")\x81", b"\x85R", b"cm\nT\n)R", b"Q")
    )
    inside = source.choice((b"N", b")", b"cm\nT\n"))
    return Raw(inside + level * source.randrange(deep))


def _nested_key(source: Random, deep: int) -> Any:
    return Raw(b"}(N" + b"\x85" * source.randrange(deep) + b"Nu")


def _growing(source: Random, deep: int) -> Any:
    """Return what doubles, or copies, at every step: a thousand million laughs."""
    step = source.choice(
        (
            b"]q\0",
            b"2\x86",
            b"q\0h\0h\0\x87",
            b"(h\0h\0h\0h\0tq\0",
            b"(2222t",
            b"h\0R",
            b"ccollections\nOrderedDict\nh\0\x85R",
            b"cbuiltins\nset\nh\0\x85R",
        )
    )
    return Raw(b"](NNNNeq\0" + step * source.randrange(deep))


def _copying(source: Random, deep: int) -> Any:
    """Return calls that would each copy the same long value."""
    length = struct.pack("<I", deep * 4)
    value = source.choice(
        (
            b"B" + length + b"ab" * (deep * 2),
            b"X" + length + b"ab" * (deep * 2),
            b"](" + b"N" * deep + b"e",
            b"}("
            + b"".join(
                opcodes(chr(0x100 + i) * 2) + b"N" for i in range(min(deep, 9999))
            ),
        )
    )
    value += b"u" if value.startswith(b"}") else b""
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(h\7K\0h\0h\0\x89N"
    call = source.choice(
        (
            b"ccollections\nOrderedDict\n(h\0",
            b"cbuiltins\nset\n(h\0",
            b"ctorch\nSize\n(h\0",
            tensor,
        )
    )
    storage = opcodes(_storage(12))
    return Raw(b"](" + storage + b"q\7" + value + b"q\0" + (call + b"tR") * deep + b"e")


def _shared_modules(source: Random, deep: int) -> Any:
    """Return many modules that share one large set of parts."""
    parts = {str(i): None for i in range(deep)}
    names = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
    shares: dict[str, Any] = {name: {} for name in names[:3]}
    large = source.choice(names)
    shares[large] = list(parts) if large == names[3] else parts
    shares[names[1]] = source.choice((parts, shares[names[1]]))
    make = b"cm\nN\n)\x81h\0b"
    return Raw(opcodes(shares) + b"q\0" + b"](" + make * deep + b"e\x86")


def _memo(source: Random, deep: int) -> Any:
    """Return values stored at absurd places of the memo, and many of them."""
    far = b"Nr" + struct.pack("<I", source.choice(EXTREMES) % (1 << 32))
    return Raw(source.choice((far, b"N\x94" * deep, far * 9)) + b"j\xff\xff\xff\x7f")


def _claim(source: Random, _deep: int) -> Any:
    """Return a length far beyond the end of the file."""
    opcode, layout = source.choice(
        (
            *((b"B", "<I"), (b"\x8e", "<Q"), (b"\x96", "<Q"), (b"X", "<I")),
            *((b"\x8d", "<Q"), (b"\x8b", "<I"), (b"T", "<I"), (b"\x95", "<Q")),
        )
    )
    number = source.choice(EXTREMES) % (1 << 8 * struct.calcsize(layout))
    return Raw(opcode + struct.pack(layout, number) + b"abc")


def _soup(source: Random, _deep: int) -> Any:
    """Return opcodes in any order, with something on the stack to begin with."""
    words = (
        *(b"(", b")", b"]", b"}", b"t", b"e", b"u", b"a", b"s", b"b", b"R", b"Q"),
        *(b"0", b"1", b"2", b"N", b"K\1", b"\x81", b"\x85", b"\x86", b"\x87", b"\x90"),
        *(b"\x91", b"\x92", b"\x93", b"\x94", b"h\0", b"q\1", b"X\1\0\0\0a", b"G" * 9),
        *(b"cos\nsystem\n", b"ctorch\nSize\n", b"ccollections\nOrderedDict\n"),
    )
    return Raw(b"N)]q\0" + b"".join(source.choices(words, k=source.randrange(200))))


ATTACKS: tuple[Callable[[Random, int], Any], ...] = (
    *(_direct, _chain, _as_state, _as_part_of_a_tensor, _as_persistent_id),
    *(
        _as_module,
        _nested,
        _nested_key,
        _growing,
        _copying,
        _shared_modules,
        _memo,
        _claim,
        _soup,
    ),
)


def attack(source: Random, deep: int) -> Any:
    """Return a value for a pickle that attacks its reader.

    Args:
        deep: how many levels or steps the bombs may have.
    """
    value = source.choice(ATTACKS)(source, deep)
    place = source.randrange(4)
    beside = {"state_dict": {"w": 1}, "epoch": value}
    return (value, {"state_dict": value}, [value, value], beside)[place]


def attack_opcodes(source: Random, deep: int) -> bytes:
    """Return the same as a pickle of some protocol."""
    protocol = source.choice((0, 1, 2, 3, 4, 5))
    return bytes([0x80, protocol]) + opcodes(attack(source, deep)) + b"."
