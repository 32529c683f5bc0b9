"""Files of parameters: what they say they hold, then the numbers.

The table of contents costs next to nothing and is compared with the network before
anything is built or read: a file may come from anywhere.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from diffctl import checkpoint
from diffctl.host import parse_json, show

WEIGHTS, ORBAX = "weights.safetensors", "weights.orbax"

_LENGTH = struct.Struct("<Q")
# What networks compute with. Others are no parameters, or are rounded too coarsely.
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Entry(NamedTuple):
    """What a file says of one of its arrays."""

    dtype: str
    shape: tuple[int, ...]


Table = Mapping[str, Entry]


def weights_of(folder: Path) -> Path:
    """Return where the parameters of a model are."""
    orbax = folder / ORBAX
    return orbax if orbax.is_dir() else folder / WEIGHTS


def read_table(path: Path) -> Table:
    """Return what a file of parameters says it holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds what no parameters are.
    """
    if path.is_dir():
        found = checkpoint.contents(path)
        table = {
            name.removeprefix("['").removesuffix("']"): Entry(*entry)
            for name, entry in found.items()
        }
    else:
        table = {name: _entry(path, name, e) for name, e in _header(path).items()}
    for name, entry in table.items():
        if entry.dtype not in _DTYPES.values():
            raise ValueError(
                f"{path}: {show(name)} is {entry.dtype}; expected parameters of "
                f"{', '.join(_DTYPES.values())}. Save the model with one of them."
            )
    return table


def count_scalars(table: Table) -> int:
    """Return how many numbers there are."""
    return sum(math.prod(entry.shape) for entry in table.values())


def check_table(path: Path, table: Table, needed: Mapping[str, Sequence[int]]) -> None:
    """Compare what a file holds with the shapes that a network needs.

    Raises:
        ValueError: a parameter is missing, unknown, or of another shape.
    """
    missing, unknown = needed.keys() - table.keys(), table.keys() - needed.keys()
    if missing or unknown:
        raise ValueError(
            f"{path} does not fit model.json: missing {sorted(missing)[:5]}, unknown "
            f"{show(sorted(unknown)[:5])}."
        )
    for name, shape in needed.items():
        if table[name].shape != tuple(shape):
            raise ValueError(
                f"{path}: {name} has shape {table[name].shape}, the architecture in "
                f"model.json needs {tuple(shape)}."
            )


def read_arrays(path: Path, table: Table) -> dict[str, Any]:
    """Return the parameters of a file whose table was compared with the network.

    Raises:
        ValueError: the file is damaged, or a number is not finite: whatever a network
            makes of it is NaN.
    """
    if path.is_dir():
        like = {n: jax.ShapeDtypeStruct(e.shape, e.dtype) for n, e in table.items()}
        stored = checkpoint.restore(path, like)
    else:
        stored = _load(path)
    return {name: _finite(path, name, array) for name, array in stored.items()}


def _load(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path) from error


def _finite(path: Path, name: str, array: Any) -> jax.Array:
    """Return a parameter as it will be used, once it is known to have no NaN."""
    with np.errstate(over="ignore"):  # beyond float32, which is told below
        used = np.asarray(array, jax.dtypes.canonicalize_dtype(array.dtype))
    count = used.size - int(np.count_nonzero(np.isfinite(used)))
    if count:
        raise ValueError(
            f"{path}: {count} of the {used.size} numbers of {name} are not finite, and "
            "a network with them computes nothing but NaN. Take an earlier state of "
            "its training, or convert the checkpoint again."
        )
    return jax.numpy.asarray(used)


def _header(path: Path) -> dict[str, Any]:
    """Return the header of a safetensors file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the folder is incomplete.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
        length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else size
        if length > size - _LENGTH.size:
            raise _damaged(path)
        text = file.read(length)
    try:
        header = parse_json(text, f"the header of {path}")
    except ValueError as error:
        raise ValueError(f"{_damaged(path)} In particular, {error}") from error
    if not isinstance(header, dict):
        raise _damaged(path)
    header.pop("__metadata__", None)
    return header


def _entry(path: Path, name: str, described: Any) -> Entry:
    dtype, shape = (
        (described.get("dtype"), described.get("shape"))
        if isinstance(described, dict)
        else (None, None)
    )
    is_shape = isinstance(shape, list) and all(
        type(size) is int and 0 <= size < 1 << 48 for size in shape
    )
    if not isinstance(dtype, str) or not isinstance(shape, list) or not is_shape:
        raise _damaged(path)
    return Entry(_DTYPES.get(dtype, dtype), tuple(shape))


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"{path} is truncated or not a safetensors file; copy or download it again."
    )
