"""The functions whose calls in a checkpoint are carried out, by code of our own.

Everything else that a pickle names becomes an `Opaque`. The argument lists are those
that PyTorch has written in its releases.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from weights_convert.readers.inert import Global, LongText, name_of
from weights_convert.readers.tensors import (
    DTYPES,
    CheckpointError,
    LazyTensor,
    Storage,
    show,
)

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
_TORCH_DTYPES = DTYPES | {
    "double": DTYPES["float64"],
    "float": DTYPES["float32"],
    "half": DTYPES["float16"],
    "long": DTYPES["int64"],
    "int": DTYPES["int32"],
    "short": DTYPES["int16"],
}


def storage_from(name: Any) -> tuple[str, Storage]:
    """Return the key and the storage, without bytes, that a persistent id describes.

    Raises:
        CheckpointError: if it is none of those that torch.save writes.
    """
    fields = name if type(name) is tuple and len(name) in (5, 6) else (None,) * 5
    tag, kind, key, _, size = fields[:5]
    if tag != "storage" or not isinstance(kind, Global) or type(key) is not str:
        raise CheckpointError(
            "a persistent id is not of the form that torch.save writes; the file is "
            "damaged."
        )
    if kind.module.split(".")[0] != "torch" or kind.name not in _STORAGE_DTYPES:
        raise CheckpointError(
            f"storages of type {show(str(kind))} cannot be read; convert the tensors "
            "to a plain type before saving."
        )
    if type(size) is not int or size < 0:
        raise CheckpointError(
            f"a storage has {show(size)} elements; the file is damaged."
        )
    return key, Storage(DTYPES[_STORAGE_DTYPES[kind.name]], size)


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_flags: Any
) -> LazyTensor:
    """Stand for torch._utils._rebuild_tensor and _rebuild_tensor_v2.

    The flags are requires_grad, backward hooks and metadata.
    """
    if not isinstance(storage, Storage):
        raise CheckpointError(
            f"a tensor is built on {show(storage)} where a storage is expected; "
            "save plain dense tensors."
        )
    # Anything else could be long to look at without being charged to the budget.
    if type(shape) is not tuple or type(strides) is not tuple:
        raise CheckpointError(
            "the shape or the strides of a tensor are no tuple; the file is damaged."
        )
    return LazyTensor(storage, shape, strides, offset)


def _tensor_of_dtype(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _requires_grad: Any,
    _hooks: Any,
    dtype: Any,
    *_flags: Any,
) -> LazyTensor:
    """Stand for torch._utils._rebuild_tensor_v3: untyped bytes and a type."""
    name = dtype.name if isinstance(dtype, Global) else show(dtype)
    if name not in _TORCH_DTYPES or not isinstance(storage, Storage):
        raise CheckpointError(
            f"tensors of type {show(name)} cannot be read; convert them to a plain "
            "type before saving."
        )
    return _tensor(_as_type(storage, _TORCH_DTYPES[name]), offset, shape, strides)


def _as_type(storage: Storage, dtype: np.dtype) -> Storage:
    """Return the same bytes, read as another type."""
    return Storage(
        dtype,
        storage.nbytes // dtype.itemsize,
        storage.data,
        storage.big_endian,
        storage.checksum,
    )


def _first(value: Any, *_rest: Any) -> Any:
    """Stand for what wraps a value without changing it."""
    return value


def _list(values: Any = ()) -> list[Any]:
    """Stand for sets, whose elements need no hashing here."""
    return list(_elements(values))


def _ordered_dictionary(pairs: Any = ()) -> dict[Any, Any]:
    """Stand for collections.OrderedDict; Python 2 passes the items as pairs."""
    if not all(type(key) is str for key, _ in _elements(pairs)):
        raise CheckpointError("an OrderedDict has keys that are no text.")
    return dict(pairs)


def _latin1(text: Any, encoding: Any) -> memoryview:
    """Stand for _codecs.encode, by which protocol 2 writes the bytes of arrays."""
    if isinstance(text, LongText):
        whole = str(text.data, "utf-8") if text.encoded is None else ""
        text.encoded = text.encoded or _latin1(whole, encoding)
        return text.encoded
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise CheckpointError(
            f"bytes are made of {show(text)}, encoded as {show(encoding)}; only text "
            "in latin1 is known."
        )
    return memoryview(text.encode("latin1"))


def _no_bytes(*values: Any) -> bytes:
    """Stand for bytes(), by which protocol 2 writes none."""
    if values:
        raise CheckpointError("bytes are made of something; the file is damaged.")
    return b""


def _elements(values: Any) -> list[Any] | tuple[Any, ...]:
    """Return what may be copied: the budget counts lists and tuples, nothing else."""
    if type(values) not in (list, tuple):
        raise CheckpointError(
            f"a container is made of {show(values)} where a list is expected; the file "
            "is damaged."
        )
    return values


def _from_type(function: Any, _type: Any, args: Any, _state: Any) -> Any:
    """Stand for torch._tensor._rebuild_from_type_v2: a tensor with attributes."""
    builder = _TENSORS.get(name_of(function))
    if builder is None or type(args) is not tuple:
        raise CheckpointError(
            f"a tensor is rebuilt by {show(name_of(function))}, which is not known; "
            "save plain dense tensors."
        )
    return builder(*args)


_TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
}
BUILDERS: dict[str, Callable[..., Any]] = _TENSORS | {
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.Size": _first,
    "torch.serialization._get_layout": _first,
    "collections.OrderedDict": _ordered_dictionary,
    "builtins.set": _list,
    "builtins.frozenset": _list,
    "__builtin__.set": _list,
    "__builtin__.frozenset": _list,
    "_codecs.encode": _latin1,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
}
