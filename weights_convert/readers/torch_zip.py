"""What torch.save has written since PyTorch 1.6: a pickle and one entry per storage."""

from typing import Any

from weights_convert.readers import foreign
from weights_convert.readers.builders import BUILDERS, storage_from
from weights_convert.readers.machine import Budget
from weights_convert.readers.tensors import CheckpointError, Storage, checksum_of
from weights_convert.readers.unpickler import Unpickler
from weights_convert.readers.zip_directory import Entry, entries, names

_PICKLE = "/data.pkl"


def read(data: memoryview) -> Any:
    """Return the object in an archive, its tensors lazy and its classes inert.

    Raises:
        CheckpointError: if the archive is damaged, hostile, or no checkpoint.
    """
    _check_origin(list(names(data)))
    found = entries(data)
    folders = [name.removesuffix(_PICKLE) for name in filter(_is_pickle, found)]
    if len(folders) != 1:
        raise CheckpointError(
            f"a checkpoint has one entry data.pkl and this archive has {len(folders)}; "
            "give a file that torch.save wrote."
        )
    (folder,) = folders
    archive = _Archive(found, folder)
    pickled = archive.verified("data.pkl")
    return Unpickler(pickled, BUILDERS, Budget(), archive.storage).load()


def _is_pickle(name: str) -> bool:
    """Return whether an entry is the pickle of an archive, which has one folder."""
    return name.endswith(_PICKLE) and name.count("/") == 1


def _check_origin(listed: list[str]) -> None:
    """Check that torch.save may have written an archive; programs have a pickle, too.

    Raises:
        CheckpointError: another program wrote it, and it is known which.
    """
    reason = foreign.archive_reason(listed)
    if reason and (reason == foreign.SCRIPT or not any(map(_is_pickle, listed))):
        raise CheckpointError(f"this {reason}.")


class _Archive:
    """The entries of one folder, among them the storages by key."""

    def __init__(self, found: dict[str, Entry], folder: str) -> None:
        self._found = found
        self._folder = folder
        order = self.verified("byteorder") if f"{folder}/byteorder" in found else b""
        if bytes(order) not in (b"", b"little", b"big"):
            raise CheckpointError("the byte order is neither little nor big.")
        self._big_endian = bytes(order) == b"big"
        self._storages: dict[tuple[str, str], Storage] = {}

    def verified(self, name: str) -> memoryview:
        """Return the bytes of an entry, whose checksum has been compared."""
        entry = self._found[f"{self._folder}/{name}"]
        if entry.checksum is not None and entry.checksum != checksum_of(entry.data):
            raise CheckpointError(
                f"the checksum of {name} does not match; the file is damaged: download "
                "it again."
            )
        return entry.data

    def storage(self, name: Any) -> Storage:
        """Return the storage that a persistent id names."""
        key, storage = storage_from(name)
        entry = self._found.get(f"{self._folder}/data/{key}")
        if entry is None:
            raise CheckpointError(
                f"the archive lacks storage {key[:40]!r}; the file is cut short."
            )
        storage.big_endian = self._big_endian
        storage.checksum = entry.checksum
        storage.bind(entry.data)
        return self._storages.setdefault((key, storage.dtype.name), storage)
