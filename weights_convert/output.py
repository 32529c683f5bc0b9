"""Writing a converted network: complete, or not at all, and never all in memory."""

import hashlib
import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from diffctl import checkpoint
from diffctl.host import MODEL, new_folder
from diffctl.priors.storage import ORBAX, WEIGHTS, write_description
from weights_convert.convert import Conversion, parameter, parameters, stored_dtype
from weights_convert.readers import companions
from weights_convert.readers.tensors import slabs
from weights_convert.values import check_finite

CONVERTER_VERSION = "1"
_CHUNK = 1 << 20
_DTYPES = {
    np.dtype(np.float64): "F64",
    np.dtype(np.float32): "F32",
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
}

Progress = Callable[[int], None]  # called with the bytes just written


def write(
    conversion: Conversion,
    folder: Path,
    *,
    source: Path,
    dtype: Any = None,
    orbax: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda written: None,
    say: Callable[[str], None] = warnings.warn,
) -> dict[str, Any]:
    """Write the parameters and their description to a new folder.

    Args:
        conversion: what to write.
        folder: to be made.
        source: the checkpoint; its hash and, of an index, those of all its files are
            recorded.
        dtype: of the parameters; None to keep each as it is stored.
        orbax: write an Orbax checkpoint instead of a safetensors file; orbax takes all
            arrays at once, and three times their memory.
        overwrite: replace a model that is there.
        progress: told of every parameter written.
        say: told what the user should know of the folder.

    Returns:
        The description in `model.json`.

    Raises:
        FileExistsError: the folder exists and may not be replaced.
        MappingError: some parameters are not finite, or not in this dtype.
    """
    dtypes = written_dtypes(conversion, dtype)
    check_finite(conversion, dtypes)
    description = describe(conversion, source, dtypes)
    with new_folder(folder, overwrite=overwrite, kind=MODEL, say=say) as scratch:
        if orbax:
            description["dtypes"] = {path: str(kind) for path, kind in dtypes.items()}
            arrays = {}
            for path, array in parameters(conversion):
                arrays[path] = array.astype(dtypes[path], copy=False)
                progress(arrays[path].nbytes)
            checkpoint.save(scratch / ORBAX, arrays)
        else:
            write_safetensors(
                scratch / WEIGHTS,
                {p: (leaf.shape, dtypes[p]) for p, leaf in conversion.leaves.items()},
                lambda path: parameter(conversion, path),
                progress,
            )
        write_description(scratch, description)
    return description


def written_dtypes(conversion: Conversion, dtype: Any = None) -> dict[str, np.dtype]:
    """Return the dtype of every parameter on disk; None keeps those of the file."""
    return {
        path: np.dtype(dtype) if dtype else stored_dtype(conversion, path)
        for path in conversion.leaves
    }


def describe(
    conversion: Conversion, source: Path, dtypes: dict[str, np.dtype]
) -> dict[str, Any]:
    """Return the contents of `model.json`."""
    plan = conversion.plan
    kinds = sorted({str(kind) for kind in dtypes.values()})
    return {
        "kind": plan.kind,
        "architecture": plan.architecture.to_json(),
        **plan.description,
        "shape": list(plan.shape),
        "dtype": kinds[0] if len(kinds) == 1 else "mixed",
        "source": {
            "file": source.name,
            "sha256": sha256(source),
            "shards_sha256": {file.name: sha256(file) for file in companions(source)},
            "family": conversion.family.name,
            "attention_order": plan.order,
            "left_out": list(conversion.ignored),
            "notes": list(conversion.notes),
        },
        "converter_version": CONVERTER_VERSION,
    }


def write_safetensors(
    path: Path,
    tensors: dict[str, tuple[tuple[int, ...], np.dtype]],
    read: Callable[[str], np.ndarray],
    progress: Progress = lambda written: None,
) -> None:
    """Write a safetensors file, holding one tensor at a time.

    Args:
        path: the file.
        tensors: shape and dtype of each.
        read: returns the values of one; they are cast to its dtype.
        progress: told the bytes of every tensor written.
    """
    header: dict[str, Any] = {}
    start = 0
    for name, (shape, dtype) in tensors.items():
        stop = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        header[name] = {
            "dtype": _code(name, dtype),
            "shape": list(shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (_, dtype) in tensors.items():
            progress(_write_array(file, read(name), dtype))


def _code(name: str, dtype: np.dtype) -> str:
    """Return what the format calls a dtype, which it stores little-endian."""
    if _little_endian(dtype) not in _DTYPES:
        raise ValueError(
            f"{name} has dtype {dtype}; parameters are written as "
            f"{', '.join(map(str, _DTYPES))}. Cast it to one of them."
        )
    return _DTYPES[_little_endian(dtype)]


def _little_endian(dtype: np.dtype) -> np.dtype:
    return dtype.newbyteorder("<")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _write_array(file: BinaryIO, array: np.ndarray, dtype: np.dtype) -> int:
    kind = _little_endian(dtype)
    for place in slabs(array.shape, max(array.dtype.itemsize, kind.itemsize)):
        # bfloat16 has no buffer protocol; its bytes have.
        flat = np.ascontiguousarray(array[place], kind).reshape(-1).view(np.uint8)
        file.write(flat.data)
    return array.size * kind.itemsize
