"""Checkpoint files of every format, written byte by byte from numpy arrays.

An array that is a view is saved as torch saves it: the storage of its owner, with
offset and strides. The files of the fixtures, which PyTorch wrote, check the readers
against the real thing; these check what no fixture has.
"""

import io
import struct
import zipfile
from typing import Any

import numpy as np

from tests.weights_convert.readers.pickles import (
    Call,
    Name,
    Persistent,
    dumps,
    ordered,
)

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C


def _owner(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


class Storages:
    """The storages of a file, in the order in which its tensors need them."""

    def __init__(self, *view: None) -> None:
        """Create without storages; a persistent id in a stream ends with no view."""
        self._view = view
        self.flat: dict[str, np.ndarray] = {}
        self._keys: dict[int, str] = {}

    def tree(self, value: Any) -> Any:
        """Return a value with its arrays replaced by calls that rebuild tensors."""
        if isinstance(value, np.ndarray):
            return self.tensor(value, Persistent(self.identity(value)))
        if isinstance(value, dict):
            return {key: self.tree(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.tree, value))
        if isinstance(value, Call):
            entries = None if value.entries is None else self.tree(value.entries)
            return Call(
                value.function, self.tree(value.args), entries, self.tree(value.state)
            )
        return value

    def identity(self, array: np.ndarray) -> tuple:
        """Return the persistent id of the storage of an array."""
        owner = _owner(array)
        key = self._keys.setdefault(id(owner), str(len(self._keys)))
        self.flat[key] = owner.reshape(-1, order="A")
        kind = Name("torch", STORAGES[array.dtype.name])
        return ("storage", kind, key, "cpu", owner.size, *self._view)

    def tensor(self, array: np.ndarray, storage: Any) -> Call:
        """Return the call that rebuilds a tensor on a storage."""
        size = array.dtype.itemsize
        offset = (_address(array) - _address(_owner(array))) // size
        strides = tuple(stride // size for stride in array.strides)
        args = (storage, offset, array.shape, strides, False, ordered({}))
        return Call(Name("torch._utils", "_rebuild_tensor_v2"), args)


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def zip_entries(value: Any, order: str = "little") -> dict[str, bytes]:
    """Return the entries of an archive as torch.save would write it."""
    storages = Storages()
    pickled = dumps(storages.tree(value))
    swap = order == "big"
    return {
        "archive/data.pkl": pickled,
        "archive/byteorder": order.encode(),
        **{
            f"archive/data/{key}": (flat.byteswap() if swap else flat).tobytes()
            for key, flat in storages.flat.items()
        },
        "archive/version": b"3\n",
    }


def zip_file(value: Any, order: str = "little") -> bytes:
    return zipped(zip_entries(value, order))


def stream_file(value: Any, protocol: int = 2) -> bytes:
    """Return what torch.save wrote before 1.6."""
    storages = Storages(None)
    root = dumps(storages.tree(value), protocol)
    return _stream(root, storages, protocol)


def _stream(root: bytes, storages: Storages, protocol: int = 2) -> bytes:
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = [dumps(part, protocol) for part in (MAGIC_NUMBER, 1001, info)]
    keys = dumps(sorted(storages.flat), protocol)
    data = [
        struct.pack("<q", flat.size) + flat.tobytes()
        for _, flat in sorted(storages.flat.items())
    ]
    return b"".join([*head, root, keys, *data])


def nested_tensor(array: np.ndarray) -> Call:
    """Return a tensor as plain pickles hold it: its storage is a stream in bytes."""
    storages = Storages(None)
    identity = Persistent(storages.identity(array))
    stream = _stream(dumps(identity), storages)
    storage = Call(Name("torch.storage", "_load_from_bytes"), (stream,))
    return storages.tensor(array, storage)


def module_state(
    parameters: dict, buffers: dict, children: dict, **attributes: Any
) -> dict:
    """Return the attributes of a torch module; arrays become parameters or buffers."""
    return {
        "training": False,
        "_parameters": ordered({k: _parameter(v) for k, v in parameters.items()}),
        "_buffers": ordered(buffers),
        "_non_persistent_buffers_set": Call(Name("builtins", "set"), ([],)),
        "_backward_hooks": ordered({}),
        "_modules": ordered(children),
        **attributes,
    }


def _parameter(tensor: Any) -> Any:
    if tensor is None:
        return None
    name = Name("torch._utils", "_rebuild_parameter")
    return Call(name, (tensor, True, ordered({})))


def persistent_class(class_name: str, state: dict, source: str = "raise") -> Call:
    """Return an object that carries the source code of its class, as EDM saves it."""
    meta = {
        "type": "class",
        "version": 6,
        "module_src": source,
        "class_name": class_name,
        "state": state,
    }
    name = Name("torch_utils.persistence", "_reconstruct_persistent_obj")
    return Call(name, (meta,))
