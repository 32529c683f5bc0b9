"""Tensors that stay in their file until they are read.

A file is mapped into memory; a `Storage` is a run of numbers in it, and a `LazyTensor`
a strided window on a storage. Whatever a file claims is checked when these objects are
made, so that a false claim fails before any memory is spent on it.
"""

import math
import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

# Torch repeats elements with a stride of zero; more repetition than this is a bomb.
MAX_REPEATED_ELEMENTS = 1 << 20
MAX_AXES = 32
MAX_NAME = 512
_STEP = 1 << 24  # bytes that are dealt with at a time

DTYPES = {
    name: np.dtype(name)
    for name in (
        *("float64", "float32", "float16", "complex64", "complex128", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
} | {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}


class CheckpointError(ValueError):
    """A file is damaged, hostile, or holds what cannot be converted."""


def show(value: Any, limit: int = 80) -> str:
    """Return a value from a file, quoted and shortened: safe to print."""
    is_plain = isinstance(value, str | int | float | None)
    text = ascii(value) if is_plain else type(value).__name__
    return text if len(text) <= limit else f"{text[:limit]}..."


def checked_name(name: str) -> str:
    """Return a name from a file, once it is known to be safe to store and print.

    Raises:
        CheckpointError: if it is absurdly long or has control characters.
    """
    if len(name) > MAX_NAME or not name.isprintable():
        raise CheckpointError(
            f"the name {show(name)} is longer than {MAX_NAME} characters or cannot be "
            "printed; do not trust the file."
        )
    return name


def map_file(path: Path) -> memoryview:
    """Return the bytes of a file without reading them."""
    try:
        with path.open("rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"cannot read {path}: {error}; give the path of a checkpoint file."
        ) from error


def _release(data: memoryview) -> None:
    """Let go of the pages of a mapped file; they come back when touched again.

    Without it a conversion would hold every weight twice: as an array and as a page.
    """
    if isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.obj.madvise(mmap.MADV_DONTNEED)


@dataclass(eq=False)
class Storage:
    """A flat run of numbers in a file, which several tensors may share.

    Attributes:
        dtype: of one number, in this machine's byte order.
        size: how many numbers.
        data: their bytes; None until the reader has found them.
        big_endian: whether the file stores the most significant byte first.
        checksum: CRC-32 of the bytes; None once they were found to have it.
        file: where they are, for messages; "" until that is known.
    """

    dtype: np.dtype
    size: int
    data: memoryview | None = None
    big_endian: bool = False
    checksum: int | None = None
    file: str = ""

    @property
    def nbytes(self) -> int:
        """Return the number of bytes that the numbers take."""
        return self.size * self.dtype.itemsize

    def bind(self, data: memoryview) -> None:
        """Say where the bytes are.

        Raises:
            CheckpointError: if they are too few.
        """
        if len(data) < self.nbytes:
            raise CheckpointError(
                f"a storage of {self.size} numbers of {self.dtype} needs {self.nbytes} "
                f"bytes and the file has {len(data)}; download the file again."
            )
        self.data = data

    def bytes_verified(self) -> memoryview:
        """Return the bytes, whose checksum has been compared."""
        if self.data is None:
            raise CheckpointError(
                f"{self.file}: a tensor refers to a storage that the file lacks."
            )
        if self.checksum is not None and self.checksum != checksum_of(self.data):
            raise CheckpointError(
                f"{self.file}: the checksum of a tensor does not match its bytes; the "
                "file is damaged: download it again."
            )
        self.checksum = None
        return self.data


def checksum_of(data: memoryview) -> int:
    """Return the CRC-32 of some bytes, holding few of them at a time."""
    found = 0
    for start in range(0, len(data), _STEP):
        found = zlib.crc32(data[start : start + _STEP], found)
        _release(data)
    return found


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number >= 0; True and False are not."""
    return type(value) is int and value >= 0


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor of a checkpoint, not yet in memory.

    Attributes:
        storage: where its numbers are.
        shape: in the order of the file.
        strides: in elements, as PyTorch counts them.
        offset: of the first element in the storage.
        name: its key in the state dict.
    """

    storage: Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        sizes = (*self.shape, *self.strides, self.offset)
        if not all(map(is_count, sizes)) or len(self.shape) != len(self.strides):
            raise CheckpointError(
                "shape, strides and offset of a tensor must be whole numbers >= 0 and "
                "as many strides as axes; the file is damaged."
            )
        if len(self.shape) > MAX_AXES:
            raise CheckpointError(
                f"a tensor has {len(self.shape)} axes; at most {MAX_AXES} are possible."
            )
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((length - 1) * stride for length, stride in steps)
        if self.size and last >= self.storage.size:
            raise CheckpointError(
                f"a tensor reaches element {show(last)} of a storage that has "
                f"{self.storage.size}; the file is damaged."
            )
        # An empty tensor must have axes that numpy can hold, too.
        claimed = math.prod(max(length, 1) for length in self.shape)
        if claimed > max(self.storage.size, MAX_REPEATED_ELEMENTS):
            raise CheckpointError(
                f"a tensor claims {show(claimed)} elements and its storage has "
                f"{self.storage.size}; save it with .contiguous()."
            )

    @property
    def dtype(self) -> np.dtype:
        """Return the type of its numbers."""
        return self.storage.dtype

    @property
    def size(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the memory that `read` takes."""
        return self.size * self.dtype.itemsize

    def named(self, name: str) -> "LazyTensor":
        """Return the same tensor under another name."""
        return replace(self, name=name)

    def read(self) -> np.ndarray:
        """Return the numbers: contiguous, in native byte order, a copy.

        Raises:
            CheckpointError: if the bytes do not match the file's checksum.
        """
        if not self.size:
            return np.empty(self.shape, self.dtype)
        data = self.storage.bytes_verified()
        itemsize = self.dtype.itemsize
        window = np.ndarray(
            self.shape,
            np.uint8 if self.dtype == bool else self.dtype,
            buffer=data,
            offset=self.offset * itemsize,
            strides=tuple(
                stride * itemsize if length > 1 else 0
                for length, stride in zip(self.shape, self.strides, strict=True)
            ),
        )
        array = np.empty(self.shape, self.dtype)
        for place in slabs(self.shape, itemsize):
            # A damaged byte may be neither 0 nor 1, which a bool does not survive.
            part = window[place]
            array[place] = part != 0 if self.dtype == bool else part
            _release(data)
        return array.byteswap(inplace=True) if self.storage.big_endian else array


def slabs(shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[Any, ...]]:
    """Yield the places of an array in row-major order, some megabytes at a time."""
    nbytes = math.prod(shape) * itemsize
    if nbytes <= _STEP:
        yield ()
        return
    row = nbytes // shape[0]
    if row > _STEP:
        for first in range(shape[0]):
            yield from ((first, *rest) for rest in slabs(shape[1:], itemsize))
        return
    count = _STEP // row
    for start in range(0, shape[0], count):
        yield (slice(start, start + count),)


def contiguous(storage: Storage, shape: tuple[int, ...]) -> LazyTensor:
    """Return the tensor that fills a storage in row-major order."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 1, 0, -1):
        strides[axis - 1] = strides[axis] * shape[axis]
    return LazyTensor(storage, shape, tuple(strides))
