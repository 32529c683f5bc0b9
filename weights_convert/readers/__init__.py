"""Readers of PyTorch checkpoints: bytes on disk to lazy tensors, nothing executed.

`open_checkpoint` tells the formats apart by their first bytes. A format's module turns
bytes into plain containers, lazy tensors (`tensors.py`) and inert records of everything
else (`inert.py`); `containers.py` finds the state dicts in them.
"""

from pathlib import Path
from typing import Any

from weights_convert.readers import (
    edm_pickle,
    foreign,
    onnx_file,
    safetensors_file,
    shards,
    torch_legacy,
    torch_zip,
)
from weights_convert.readers.checkpoint import Checkpoint as Checkpoint
from weights_convert.readers.checkpoint import Container as Container
from weights_convert.readers.containers import checkpoint_of
from weights_convert.readers.tensors import CheckpointError as CheckpointError
from weights_convert.readers.tensors import LazyTensor as LazyTensor
from weights_convert.readers.tensors import map_file


def open_checkpoint(path: str | Path, container: str | None = None) -> Checkpoint:
    """Open a checkpoint without reading its tensors.

    Args:
        path: a file that torch.save wrote in any release, a safetensors file, the index
            (`*.index.json`, `*.index.fp16.json`) of several such files, an ONNX file,
            or a pickle of NVlabs/edm.
        container: which state dict of the file, see `Checkpoint.select`; by default the
            averaged weights if there are any, otherwise the largest.

    Raises:
        CheckpointError: if the file cannot be read, is damaged, or is hostile.
    """
    path = Path(path)
    try:
        return checkpoint_of(path, *_read(path), container=container)
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error


def companions(path: Path) -> list[Path]:
    """Return the other files that hold tensors of a checkpoint.

    Raises:
        CheckpointError: as `open_checkpoint`.
    """
    if shards.matches(path):
        return shards.files(path)
    kind, _, notes = _read(path)
    names = notes["beside"] if kind == "ONNX" else []
    return [path.parent / name for name in names]


def _read(path: Path) -> tuple[str, Any, dict[str, Any]]:
    """Return the format of a file, the object in it, and its metadata."""
    if shards.matches(path):
        return "sharded", *shards.read(path, lambda shard: _read_file(shard)[1])
    return _read_file(path)


def _read_file(path: Path) -> tuple[str, Any, dict[str, Any]]:
    foreign.check_whole(path)
    data = map_file(path)
    start = bytes(data[:64])
    if safetensors_file.matches(data):
        return "safetensors", *safetensors_file.read(data)
    if start.startswith(b"PK\3\4"):
        return "torch zip archive", torch_zip.read(data), {}
    if torch_legacy.matches(data):
        return "torch stream", torch_legacy.read(data), {}
    if start.startswith(b"\x80"):
        return "pickle of objects", edm_pickle.read(data), {}
    reason = foreign.file_reason(path, data)
    if not reason and onnx_file.matches(data):
        return "ONNX", *onnx_file.read(data, path)
    reason = reason or (
        "is none of the known formats: torch.save, safetensors, ONNX, EDM pickle"
    )
    raise CheckpointError(f"{path} {reason}.")
