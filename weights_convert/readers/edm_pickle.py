"""The plain pickles of NVlabs/edm: objects that carry tensors and their source code.

A tensor lies in them as a storage that was itself saved in the stream format, as a byte
string. The state dict is put together from the records of the modules (`modules.py`);
the source code is text that nobody reads.
"""

from typing import Any

from weights_convert.readers import torch_legacy
from weights_convert.readers.builders import BUILDERS
from weights_convert.readers.machine import Budget
from weights_convert.readers.tensors import CheckpointError, Storage, show
from weights_convert.readers.unpickler import Unpickler


def read(data: memoryview) -> Any:
    """Return the object in a pickle, its tensors lazy and its classes inert.

    Raises:
        CheckpointError: if the pickle is damaged, hostile, or no checkpoint.
    """
    budget = Budget()
    nested = _NestedStreams(budget)
    builders = BUILDERS | {"torch.storage._load_from_bytes": nested.storage}
    return Unpickler(data, builders, budget).load()


class _NestedStreams:
    """Storages saved as byte strings; one that occurs twice is read once."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._read: dict[int, tuple[Any, Storage]] = {}

    def storage(self, stream: Any) -> Storage:
        """Stand for torch.storage._load_from_bytes."""
        if not isinstance(stream, bytes | memoryview):
            raise CheckpointError(f"a storage is {show(stream)} where bytes belong.")
        # The stream is kept, too, so that its identity is not given to another.
        if id(stream) not in self._read:
            found = torch_legacy.read(memoryview(stream), self._budget)
            if not isinstance(found, Storage):
                raise CheckpointError("the bytes of a storage hold something else.")
            self._read[id(stream)] = stream, found
        return self._read[id(stream)][1]
