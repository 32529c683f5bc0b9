"""Checkpoints in several files, with an index that says which tensor is where."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from weights_convert.readers.safetensors_file import parse_json
from weights_convert.readers.tensors import CheckpointError, LazyTensor, map_file, show


def matches(path: Path) -> bool:
    """Return whether a path is that of an index."""
    return path.name.endswith(".index.json")


def read(
    path: Path, read_file: Callable[[Path], Any]
) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
    """Return the tensors of all files and the metadata of the index.

    Args:
        path: of the index; the files lie beside it.
        read_file: opens one of them.

    Raises:
        CheckpointError: if index and files do not agree, name for name.
    """
    index = parse_json(map_file(path))
    places = index.get("weight_map")
    if type(places) is not dict or not places:
        raise CheckpointError(
            f'{path} has no "weight_map" from tensors to files; it is no index.'
        )
    files = {
        name: read_file(path.parent / name)
        for name in sorted({_plain(path, name) for name in places.values()})
    }
    tensors: dict[str, LazyTensor] = {}
    for name, file in places.items():
        found = files[file].get(name) if type(files[file]) is dict else None
        if not isinstance(found, LazyTensor):
            raise CheckpointError(
                f"{path} places {show(name)} in {show(file)}, which lacks it; download "
                "both again."
            )
        tensors[name] = found
    unlisted = sum(map(len, files.values())) - len(tensors)
    if unlisted:
        raise CheckpointError(
            f"the files of {path} hold {unlisted} tensors that it does not list; "
            "download both again."
        )
    metadata = index.get("metadata")
    return tensors, metadata if type(metadata) is dict else {}


def _plain(path: Path, name: Any) -> str:
    """Return the name of a file, which must not lead out of the folder."""
    is_text = type(name) is str and name.isprintable()
    if (
        not is_text
        or name in ("", "..")
        or any(kind(name).name != name for kind in (PurePosixPath, PureWindowsPath))
    ):
        raise CheckpointError(
            f"{path} names the file {show(name)}; only files beside it are read."
        )
    return name
