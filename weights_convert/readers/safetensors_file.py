"""The safetensors format: a header in JSON, then the bytes of all tensors in a row."""

import math
import struct
from typing import Any

from weights_convert.readers.documents import parse_json
from weights_convert.readers.tensors import (
    DTYPES,
    MAX_AXES,
    CheckpointError,
    LazyTensor,
    Storage,
    contiguous,
    show,
)

_REASONABLE_BYTES = 1 << 32
_LENGTH = struct.Struct("<Q")
_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}


def matches(data: memoryview) -> bool:
    """Return whether some bytes begin like a safetensors file.

    The length of the header can begin like a pickle. The first bytes of a pickle, read
    as a length, are beyond all reason.
    """
    has_brace = bytes(data[_LENGTH.size : _LENGTH.size + 1]) == b"{"
    return has_brace and _LENGTH.unpack_from(data)[0] < _REASONABLE_BYTES


def read(data: memoryview) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Return the tensors and the metadata of a file.

    Raises:
        CheckpointError: if the file is damaged or hostile.
    """
    (length,) = _LENGTH.unpack_from(data)
    if length > len(data) - _LENGTH.size:
        raise CheckpointError(
            f"the header claims {length} bytes and the file has {len(data)}; it is cut "
            "short: download it again."
        )
    header = parse_json(data[_LENGTH.size : _LENGTH.size + length])
    metadata = header.pop("__metadata__", {})
    body = data[_LENGTH.size + length :]
    places = {name: _place(name, entry) for name, entry in header.items()}
    _check_order(list(places.values()), len(body))
    tensors = {
        name: _tensor(name, header[name], body[begin:end])
        for name, (begin, end) in places.items()
    }
    return tensors, metadata if isinstance(metadata, dict) else {}


def _counts(value: Any) -> tuple[int, ...] | None:
    """Return a list of whole numbers that a file can hold; None if it is none."""
    if type(value) is not list:
        return None
    is_fine = all(type(number) is int and 0 <= number < 1 << 63 for number in value)
    return tuple(value) if is_fine else None


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Return where the bytes of a tensor begin and end."""
    place = _counts(entry.get("data_offsets")) if type(entry) is dict else None
    if place is None or len(place) != 2 or place[0] > place[1]:
        raise CheckpointError(
            f"the header has no valid place for {show(name)}; the file is damaged."
        )
    return place[0], place[1]


def _check_order(places: list[tuple[int, int]], length: int) -> None:
    """Check that the tensors follow one another and fill the file."""
    reached = 0
    for begin, end in sorted(places):
        if begin != reached:
            raise CheckpointError(
                f"a tensor begins at byte {begin} where {reached} is expected; with a "
                "gap or an overlap, do not trust the file."
            )
        reached = end
    if reached != length:
        raise CheckpointError(
            f"the tensors take {reached} bytes and the file has {length} for them; it "
            "is cut short or damaged: download it again."
        )


def _tensor(name: str, entry: dict[str, Any], data: memoryview) -> LazyTensor:
    shape, kind = _counts(entry.get("shape")), entry.get("dtype")
    if shape is None or len(shape) > MAX_AXES:
        raise CheckpointError(f"{show(name)} has no valid shape; the file is damaged.")
    if type(kind) is not str or kind not in _TYPES:
        raise CheckpointError(
            f"{show(name)} has type {show(kind)}; what can be read is "
            f"{', '.join(_TYPES)}."
        )
    dtype = DTYPES[_TYPES[kind]]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise CheckpointError(
            f"{show(name)} has {len(data)} bytes, which is not what its shape and type "
            "take; the file is damaged."
        )
    return contiguous(Storage(dtype, math.prod(shape), data), shape)
