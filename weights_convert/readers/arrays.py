"""NumPy arrays in pickles: tensors made of inert records, after the fact.

NumPy pickles an array as a call of `_reconstruct`, whose record then gets the state
(version, shape, dtype, Fortran order, bytes), or, at protocol 5, as a call of
`_frombuffer`. The unpickler records both like any other call (`inert.py`); here a
record is read as the array that it describes. Nothing of NumPy is called by name.
"""

from typing import Any

import numpy as np

from weights_convert.readers.inert import Global, Opaque, name_of
from weights_convert.readers.tensors import (
    DTYPES,
    CheckpointError,
    LazyTensor,
    Storage,
    contiguous,
    is_count,
    show,
)

# NumPy 2 renamed the package; files of both kinds are about.
_PACKAGES = ("numpy.core", "numpy._core")
_RECONSTRUCT = {f"{package}.multiarray._reconstruct" for package in _PACKAGES}
_FROM_BUFFER = {f"{package}.numeric._frombuffer" for package in _PACKAGES}
# "f4" and the like; types of ml_dtypes go by their names.
_CODES = {f"{d.kind}{d.itemsize}": d for d in DTYPES.values() if d.isbuiltin == 1}


def tensor_of(value: Any) -> LazyTensor | None:
    """Return a tensor, or the tensor that the record of an array describes.

    Returns:
        None for everything else, arrays of objects or text among it.

    Raises:
        CheckpointError: the record of an array of numbers is damaged.
    """
    if isinstance(value, LazyTensor):
        return value
    if not isinstance(value, Opaque) or type(value.args) is not tuple:
        return None
    described = _description(value)
    if described is None:
        return None
    shape, kind, columns_first, data = described
    found = _dtype(kind)
    if found is None:
        return None
    return _tensor(shape, *found, columns_first, data)


def _description(record: Opaque) -> tuple[Any, Any, bool, Any] | None:
    """Return shape, dtype, whether columns come first, and bytes; None if no array."""
    name = name_of(record.function)
    kind = name_of(record.args[0]) if record.args else ""
    if name in _RECONSTRUCT and kind == "numpy.ndarray":
        if type(record.state) is not tuple or len(record.state) != 5:
            raise CheckpointError("an array has no valid state; the file is damaged.")
        _, shape, kind, columns_first, data = record.state
        return shape, kind, columns_first is True, data
    if name in _FROM_BUFFER and len(record.args) == 4:
        data, kind, shape, order = record.args
        return shape, kind, type(order) is str and order == "F", data
    return None


def _dtype(record: Any) -> tuple[np.dtype, bool] | None:
    """Return a type of numbers and whether the most significant byte comes first.

    None for types that hold no numbers.
    """
    is_dtype = isinstance(record, Opaque) and name_of(record.function) == "numpy.dtype"
    if not is_dtype or type(record.args) is not tuple or not record.args:
        raise CheckpointError("an array has no valid dtype; the file is damaged.")
    code = record.args[0]
    if isinstance(code, Global):
        code = code.name if code.module == "ml_dtypes" else ""
    if type(code) is not str:
        raise CheckpointError("an array has no valid dtype; the file is damaged.")
    dtype = _CODES.get(code, DTYPES.get(code))
    state = record.state if type(record.state) is tuple else ()
    is_big = len(state) > 1 and type(state[1]) is str and state[1] == ">"
    return None if dtype is None else (dtype, is_big)


def _tensor(
    shape: Any, dtype: np.dtype, is_big: bool, columns_first: bool, data: Any
) -> LazyTensor:
    if type(data) is str and data.isascii():  # as Python 2 wrote bytes
        data = data.encode()
    has_shape = type(shape) is tuple and all(map(is_count, shape))
    if not has_shape or not isinstance(data, bytes | memoryview):
        raise CheckpointError("an array has no shape or no bytes; the file is damaged.")
    if len(data) % dtype.itemsize:
        raise CheckpointError(
            f"an array of {dtype} has {show(len(data))} bytes; the file is damaged."
        )
    size = len(data) // dtype.itemsize
    storage = Storage(dtype, size, memoryview(data), big_endian=is_big)
    tensor = contiguous(storage, shape[::-1] if columns_first else shape)
    if tensor.size != size:
        raise CheckpointError(
            f"an array has {size} numbers and a shape of {show(tensor.size)}; the file "
            "is damaged."
        )
    if not columns_first:
        return tensor
    return LazyTensor(storage, shape, tensor.strides[::-1])
