"""ONNX files written byte by byte: messages are joined fields, and fields are bytes."""

from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

CODES = {
    np.dtype(name): code
    for code, name in {
        **{1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32"},
        **{7: "int64", 9: "bool", 10: "float16", 11: "float64", 12: "uint32"},
        **{13: "uint64", 14: "complex64", 15: "complex128"},
        **{16: ml_dtypes.bfloat16, 17: ml_dtypes.float8_e4m3fn},
    }.items()
}
RAW = 9


def varint(number: int) -> bytes:
    """Return a number in seven bits of each byte; negative ones take ten."""
    number %= 1 << 64
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F)
    return bytes([0x80 | group for group in groups[:-1]] + groups[-1:])


def field(number: int, value: int | bytes | str) -> bytes:
    """Return a field with a number or with bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def pair(key: str, value: str) -> bytes:
    return field(1, key) + field(2, value)


def packed(numbers: Iterable[int]) -> bytes:
    return b"".join(map(varint, numbers))


def tensor(name: str, array: np.ndarray, place: bytes | None = None) -> bytes:
    """Return a tensor; `place` is the field with its numbers, by default raw bytes."""
    data = field(RAW, array.tobytes()) if place is None else place
    dims = b"".join(field(1, length) for length in array.shape)
    return dims + field(2, CODES[array.dtype]) + field(8, name) + data


def beside(location: str, **entries: int) -> bytes:
    """Return the fields of a tensor whose bytes lie in another file."""
    pairs = {"location": location} | {key: str(n) for key, n in entries.items()}
    return b"".join(field(13, pair(*entry)) for entry in pairs.items()) + field(14, 1)


def node(
    operator: str,
    inputs: Iterable[str],
    output: str = "",
    name: str = "",
    scopes: str = "",
    attribute: bytes = b"",
) -> bytes:
    """Return a node; `scopes` is what the newer exporter of PyTorch notes."""
    taken = b"".join(field(1, taken) for taken in inputs)
    metadata = field(9, pair("pkg.torch.onnx.name_scopes", scopes)) if scopes else b""
    held = field(5, attribute) if attribute else b""
    names = field(2, output) + field(3, name) + field(4, operator)
    return taken + names + held + metadata


def constant(output: str, array: np.ndarray) -> bytes:
    attribute = field(1, "value") + field(5, tensor("", array)) + field(20, 4)
    return node("Constant", (), output, attribute=attribute)


def model(
    tensors: Iterable[bytes], nodes: Iterable[bytes] = (), more: bytes = b""
) -> bytes:
    """Return a file; `more` goes into its graph."""
    graph = b"".join(field(1, made) for made in nodes)
    graph += (
        field(2, "main_graph") + b"".join(field(5, made) for made in tensors) + more
    )
    return field(1, 9) + field(2, "pytorch") + field(3, "2.0") + field(7, graph)


def onnx_file(arrays: Mapping[str, Any]) -> bytes:
    return model(tensor(name, np.asarray(array)) for name, array in arrays.items())
