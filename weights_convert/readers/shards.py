"""Checkpoints in several files, with an index that says which tensor is where."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from weights_convert.readers.documents import parse_json
from weights_convert.readers.tensors import CheckpointError, LazyTensor, map_file, show


def matches(path: Path) -> bool:
    """Return whether a path is that of an index, of a variant such as fp16 or not."""
    return re.search(r"\.index(\.[^.]+)?\.json$", path.name) is not None


def files(path: Path) -> list[Path]:
    """Return the files that an index names, sorted; none for a file that is no index.

    Raises:
        CheckpointError: the index is damaged or leads out of its folder.
    """
    if not matches(path):
        return []
    return [path.parent / name for name in _names(path, _places(path, _index(path)))]


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
    index = _index(path)
    places = _places(path, index)
    parts = {name: read_file(path.parent / name) for name in _names(path, places)}
    tensors: dict[str, LazyTensor] = {}
    for name, file in places.items():
        found = parts[file].get(name) if type(parts[file]) is dict else None
        if not isinstance(found, LazyTensor):
            raise CheckpointError(
                f"{path} places {show(name)} in {show(file)}, which lacks it; download "
                "both again."
            )
        tensors[name] = found
    unlisted = sum(map(len, parts.values())) - len(tensors)
    if unlisted:
        raise CheckpointError(
            f"the files of {path} hold {unlisted} tensors that it does not list; "
            "download both again."
        )
    metadata = index.get("metadata")
    return tensors, metadata if type(metadata) is dict else {}


def _index(path: Path) -> dict[str, Any]:
    return parse_json(map_file(path))


def _places(path: Path, index: dict[str, Any]) -> dict[str, Any]:
    """Return the map from tensors to names of files."""
    places = index.get("weight_map")
    if type(places) is not dict or not places:
        raise CheckpointError(
            f'{path} has no "weight_map" from tensors to files; it is no index.'
        )
    return places


def _names(path: Path, places: dict[str, Any]) -> list[str]:
    return sorted({plain_name(path, name) for name in places.values()})


def plain_name(path: Path, name: Any) -> str:
    """Return the name of a file, which must not lead out of the folder of another.

    Raises:
        CheckpointError: it would, or is no name.
    """
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
