"""Numbers in seven bits of each byte, as protobuf stores whole ones: not yet unpacked.

The eighth bit says that the next byte has more of the same number.
"""

from collections.abc import Iterator

import numpy as np

from weights_convert.readers.tensors import CheckpointError, Storage

_STEP = 1 << 16  # bytes that are unpacked at a time


class PackedStorage(Storage):
    """Whole numbers, or the bits of others, in seven bits of each byte."""

    def bind(self, data: memoryview) -> None:
        """Say where the bytes are.

        Raises:
            CheckpointError: if they are another number of numbers.
        """
        count = sum(map(len, unpacked(data)))
        if count != self.size:
            raise CheckpointError(
                f"{count} numbers are stored where {self.size} belong; download the "
                "file again."
            )
        self.data = data

    def bytes_verified(self) -> memoryview:
        """Return the bytes of the numbers as they would lie in memory."""
        kind = np.dtype(f"u{self.dtype.itemsize}")
        runs = [run.astype(kind) for run in unpacked(super().bytes_verified())]
        return memoryview(np.concatenate(runs).tobytes())


def unpacked(data: memoryview) -> Iterator[np.ndarray]:
    """Yield the numbers that are stored in seven bits of each byte, many at a time.

    Raises:
        CheckpointError: if one is cut short or has more than 64 bits.
    """
    packed, start = np.frombuffer(data, np.uint8), 0
    while start < len(packed):
        part = packed[start : start + _STEP]
        ends = np.flatnonzero(part < 0x80) + 1
        lengths = np.diff(ends, prepend=0)
        if not len(ends) or lengths.max() > 10:
            raise CheckpointError(
                "a packed number is cut short or too long; download the file again."
            )
        shifts = 7 * (np.arange(ends[-1]) - np.repeat(ends - lengths, lengths))
        bits = (part[: ends[-1]] & 0x7F).astype(np.uint64) << shifts.astype(np.uint64)
        yield np.add.reduceat(bits, ends - lengths)
        start += int(ends[-1])
