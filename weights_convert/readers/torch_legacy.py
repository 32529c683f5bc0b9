"""What torch.save wrote before PyTorch 1.6: pickles, then the bytes of all storages.

Five pickles follow one another: a magic number, a version, facts about the machine,
the object, and the keys of the storages in the order of their bytes. Each storage is
its number of elements (8 bytes) and the elements, little-endian on every machine.
"""

import struct
from typing import Any

from weights_convert.readers.builders import BUILDERS, storage_from
from weights_convert.readers.machine import Budget
from weights_convert.readers.tensors import CheckpointError, Storage, show
from weights_convert.readers.unpickler import Unpickler

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_MAGIC = _MAGIC_NUMBER.to_bytes(10, "little")
_VERSION = 1001
_COUNT = struct.Struct("<q")


def matches(data: memoryview) -> bool:
    """Return whether some bytes begin like a stream, at any pickle protocol."""
    return _MAGIC in bytes(data[:32])


def read(data: memoryview, budget: Budget | None = None) -> Any:
    """Return the object in a stream, its tensors lazy and its classes inert.

    Raises:
        CheckpointError: if the stream is damaged, hostile, or no checkpoint.
    """
    storages = _Storages()
    machine = Unpickler(data, BUILDERS, budget or Budget(), storages.find)
    if machine.load() != _MAGIC_NUMBER or machine.load() != _VERSION:
        raise CheckpointError(
            f"the stream is not of version {_VERSION}; save it again with a newer "
            "PyTorch."
        )
    machine.load()
    root = machine.load()
    storages.bind(machine.load(), machine)
    return root


class _Storages:
    """The storages of a stream, whose bytes come after everything that uses them."""

    def __init__(self) -> None:
        self._roots: dict[str, Storage] = {}
        self._views: dict[str, tuple[Storage, Storage, int]] = {}

    def find(self, name: Any) -> Any:
        """Return the storage, or the part of one, that a persistent id names.

        Whole modules are saved with ids that add the source code to a class.
        """
        if type(name) is tuple and len(name) == 4 and name[0] == "module":
            return name[1]
        key, described = storage_from(name)
        root = self._roots.setdefault(key, described)
        if (root.dtype, root.size) != (described.dtype, described.size):
            raise CheckpointError(
                f"storage {show(key)} is described in two ways; the file is damaged."
            )
        view = name[5] if len(name) == 6 else None
        return root if view is None else self._part(root, view)

    def _part(self, root: Storage, view: Any) -> Storage:
        """Return a slice of a storage, as versions before 0.4 shared memory."""
        is_view = type(view) is tuple and [type(v) for v in view] == [str, int, int]
        key, offset, size = view if is_view else ("", 0, -1)
        if not 0 <= offset <= offset + size <= root.size:
            raise CheckpointError(
                "a view reaches outside its storage; the file is damaged."
            )
        self._views.setdefault(key, (Storage(root.dtype, size), root, offset))
        return self._views[key][0]

    def bind(self, keys: Any, machine: Unpickler) -> None:
        """Find the bytes of every storage."""
        if not isinstance(keys, list) or not all(type(key) is str for key in keys):
            raise CheckpointError("the list of storages is damaged.")
        if len(keys) != len(self._roots) or set(keys) != set(self._roots):
            raise CheckpointError(
                f"the stream lists {len(keys)} storages and its tensors use "
                f"{len(self._roots)}; the file is damaged."
            )
        for key in keys:
            storage = self._roots[key]
            count = machine.number(_COUNT)
            if count != storage.size:
                raise CheckpointError(
                    f"storage {show(key)} has {count} elements where {storage.size} "
                    "were announced; the file is damaged."
                )
            storage.bind(machine.take(storage.nbytes))
        for part, root, offset in self._views.values():
            if root.data is not None:
                part.bind(root.data[offset * root.dtype.itemsize :])
