"""ONNX files with false numbers, types, places and nodes, of parts that are whole."""

from random import Random

import numpy as np

from tests.weights_convert.fuzzing.mutations import EXTREMES
from tests.weights_convert.readers.onnx_files import (
    beside,
    constant,
    field,
    model,
    node,
    packed,
    pair,
    tensor,
)

_WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)
_NAMES = (
    *("a.w", "mid.norm.weight", "onnx::MatMul_1", "val_1", "", "x" * 600, "\x1b[2J"),
    *("/Constant_output_0", "a.b.c.d.e.f.g", ".", "a..b", "model/conv:0"),
)
_OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Mul", "Add", "Identity", "InstanceNormalization"),
    *("Constant", "DequantizeLinear", "If", "", "x" * 600),
)
_PATHS = ("", "/", "/mid/norm/Mul", "//", "/a/b/c", "mid/norm/Mul", "/mid/to_q/MatMul")
_SCOPES = ("", "['', 'mid', 'mid.norm', 'x']", "[", "'" * 999, "['a', '\x1b', 'b']")
_PLACES = (
    "w.data",
    "../w.data",
    "/etc/hostname",
    "model.onnx",
    "",
    "a/b",
    "C:\\x",
    ".",
)


def _number(source: Random) -> int:
    return source.choice((0, 1, 3, 4, 12, 48, -1, *EXTREMES))


def _tensor(source: Random) -> bytes:
    """Return a tensor that claims anything."""
    if source.random() < 0.4:
        return tensor(source.choice(_NAMES), _WEIGHT)
    shape = [_number(source) for _ in range(source.choice((0, 1, 2, 2, 4, 40)))]
    dims = source.choice(
        (field(1, packed(shape)), b"".join(field(1, length) for length in shape))
    )
    held = source.choice((4, 5, 7, 9, 9, 9, 10, 11))
    data = source.choice((bytes(48), bytes(47), b"", b"\xff" * 12, packed(shape)))
    place = source.choice(
        (
            field(held, data),
            field(held, data),
            field(held, data) * 2,
            field(held, _number(source)),
            beside(source.choice(_PLACES), offset=_number(source)),
            beside("w.data", length=_number(source)) + field(3, b""),
            b"",
        )
    )
    kind = field(2, source.choice((1, 1, 1, *range(26), _number(source))))
    parts = [dims, kind, field(8, source.choice(_NAMES)), place]
    source.shuffle(parts)
    return b"".join(parts)


def _node(source: Random) -> bytes:
    if source.random() < 0.2:
        return constant(source.choice(_NAMES), _WEIGHT)
    inputs = source.choices(_NAMES, k=source.choice((0, 1, 2, 3, 200)))
    attribute = source.choice(
        (b"", field(1, "value") + field(5, _tensor(source)), field(5, 3), b"\xff" * 9)
    )
    return node(
        source.choice(_OPERATORS),
        inputs,
        source.choice(_NAMES),
        source.choice(_PATHS),
        source.choice(_SCOPES),
        attribute,
    )


def claims(source: Random, _data: bytes) -> bytes:
    """Return a file of tensors and nodes that claim anything."""
    count = source.choice((1, 2, 3, 8, 300))
    tensors = [_tensor(source) for _ in range(count)]
    nodes = [_node(source) for _ in range(source.choice((0, 1, 3, 8, 300)))]
    more = source.choice(
        (
            b"",
            b"",
            field(15, b"\0"),
            field(13, 0) * source.choice((9, 200_000)),
            field(1, b"") * source.choice((9, 200_000)),
            field(5, 3),
            field(1, 3),
            pair("a", "b"),
        )
    )
    whole = model(tensors, nodes, more)
    return source.choice((whole, whole, whole + whole, whole + field(7, 1)))
