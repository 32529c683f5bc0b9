"""The numbers of a conversion: their types, and that they are finite.

Networks compute in floating point. Numbers of 8 bits are kept as bfloat16, which holds
each of them exactly: no library of arrays computes with them, nor does the NumPy side
of safetensors know them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from weights_convert.mapping import MappingError, Source
from weights_convert.readers.tensors import slabs

if TYPE_CHECKING:
    from weights_convert.convert import Conversion, Tensor

_FLOAT8 = {np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)}
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOATS = {np.dtype(name) for name in ("float64", "float32", "float16")} | {_BFLOAT16}
_SHOWN = 10


def check_types(
    sources: Mapping[str, list[Source]], tensors: Mapping[str, "Tensor"]
) -> None:
    """Check that parameters are floating-point numbers.

    Raises:
        MappingError: some are whole, complex, or true and false.
    """
    kinds = {s.tensor: tensors[s.tensor].dtype for s in _each(sources)}
    wrong = {n: k for n, k in kinds.items() if np.dtype(k) not in _FLOATS | _FLOAT8}
    if wrong:
        raise MappingError(
            "weights are floating-point numbers, and some tensors hold others: "
            f"{_listed(f'{name} ({kind})' for name, kind in wrong.items())}. If they "
            "are quantised, restore them in PyTorch with dequantize() and save again."
        )


def check_not_empty(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that every tensor has numbers.

    Raises:
        MappingError: some have none.
    """
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise MappingError(
            f"{len(empty)} tensors of the file are empty, and no parameter is: "
            f"{_listed(empty)}. Save the network's state dict alone; parameters that "
            "are sharded (DeepSpeed, FSDP) must be gathered before."
        )


def check_finite(conversion: "Conversion", dtypes: Mapping[str, np.dtype]) -> None:
    """Check that parameters are finite, in the file and as they are to be written.

    Raises:
        MappingError: some are not.
    """
    infinite: dict[str, tuple[int, int]] = {}
    overflown: dict[str, tuple[int, np.dtype]] = {}
    for path, sources in conversion.sources.items():
        for tensor, _ in sources:
            array = conversion.tensors[tensor].read()
            before, after = _not_finite(array, dtypes[path])
            if before:
                infinite[tensor] = before, array.size
            elif after:
                overflown[tensor] = after, dtypes[path]
    if infinite:
        named = (f"{n} ({k} of {size})" for n, (k, size) in infinite.items())
        raise MappingError(
            "weights are NaN or infinite, so the network would return nothing else: "
            f"{_listed(named)}. The training diverged or the file is damaged; take an "
            "earlier checkpoint, or another state dict of the file with --container."
        )
    if overflown:
        named = (f"{n} ({k} too large for {d})" for n, (k, d) in overflown.items())
        raise MappingError(
            f"weights would become infinite: {_listed(named)}. Choose another --dtype; "
            "bfloat16 holds what float32 holds."
        )


def kept_as(kinds: Iterable[np.dtype]) -> np.dtype:
    """Return the type in which numbers of such types are kept without a loss."""
    kept = {_BFLOAT16 if kind in _FLOAT8 else np.dtype(kind) for kind in kinds}
    if len(kept) == 1:
        return kept.pop()
    # NumPy knows no type for float16 with bfloat16; every mixture fits into these.
    return np.dtype(np.float64 if np.dtype(np.float64) in kept else np.float32)


def notes_on_types(conversion: "Conversion") -> Iterator[str]:
    """Yield a line on numbers that are not kept in the type of the file."""
    kinds = {conversion.tensors[s.tensor].dtype for s in _each(conversion.sources)}
    if kinds & _FLOAT8:
        names = " and ".join(sorted(map(str, kinds & _FLOAT8)))
        yield f"{names} is kept as bfloat16, which holds every such number exactly"


def _not_finite(array: np.ndarray, dtype: np.dtype) -> tuple[int, int]:
    """Count what is not finite, before and after a cast, some megabytes at a time."""
    before = after = 0
    for place in slabs(array.shape, max(array.dtype.itemsize, dtype.itemsize)):
        part = np.asarray(array[place])
        with np.errstate(over="ignore"):
            cast = part if part.dtype == dtype else part.astype(dtype)
        before += part.size - int(np.count_nonzero(np.isfinite(part)))
        after += cast.size - int(np.count_nonzero(np.isfinite(cast)))
    return before, after


def _each(sources: Mapping[str, list[Source]]) -> Iterator[Source]:
    return (source for several in sources.values() for source in several)


def _listed(texts: Iterable[str]) -> str:
    """Return the first few of what may be many."""
    listed = list(texts)
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN] + ([f"and {more} more"] if more > 0 else []))
