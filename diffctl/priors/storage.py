"""Networks on disk: `weights.safetensors` and `model.json`, never a pickle.

The converter can write an Orbax checkpoint in place of the safetensors file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from diffctl import checkpoint
from diffctl.host import MODEL, new_folder, read_json, to_json
from diffctl.nets.architecture import Architecture

WEIGHTS, DESCRIPTION, ORBAX = "weights.safetensors", "model.json", "weights.orbax"
FORMAT = 1


def parameter_names(net: Any) -> list[str]:
    """Return the dotted path of every parameter, in the order of `jax.tree.leaves`."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(net)[0]]
    names = [jax.tree_util.keystr(p, simple=True, separator=".") for p in paths]
    return [name.removesuffix(".value") for name in names]


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write `model.json`; of the notes, numbers that are not finite become null.

    Raises:
        ValueError: a setting is not finite, which JSON has no number for.
    """
    settings = {name: v for name, v in description.items() if name != "notes"}
    try:
        json.dumps(settings, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"a setting of the model is not finite, which {DESCRIPTION} cannot hold: "
            f"{settings}."
        ) from error
    (folder / DESCRIPTION).write_text(to_json({"format": FORMAT} | description))


def write_model(
    folder: Path, net: Any, description: dict[str, Any], *, overwrite: bool = False
) -> None:
    """Write a network and its description; the folder appears complete or not at all.

    Raises:
        FileExistsError: the folder exists and `overwrite` is false, or it exists and
            is not a model.
    """
    with new_folder(folder, overwrite=overwrite, kind=MODEL) as scratch:
        named = zip(parameter_names(net), jax.tree.leaves(net), strict=True)
        write_weights(scratch / WEIGHTS, dict(named))
        write_description(scratch, description)


def write_weights(path: Path, weights: Mapping[str, ArrayLike]) -> None:
    """Write arrays to a safetensors file, however they lie in memory.

    Raises:
        OSError: the file cannot be written, for instance because the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # safetensors stores the bytes that follow an array's first element and ignores the
    # strides. `np.ascontiguousarray` would turn a scalar into a vector.
    arrays = {n: np.asarray(leaf, order="C") for n, leaf in weights.items()}
    try:
        save_file(arrays, path)
    except SafetensorError as error:
        raise OSError(
            f"{path} cannot be written: {error}. Free some space, or choose another "
            "folder."
        ) from error
    path.chmod(0o644)


def read_model(folder: Path, *, kind: str) -> tuple[Any, dict[str, Any]]:
    """Read a network of the given kind and its description.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        ValueError: a file is damaged, of another kind or format, or the tensors are not
            those of the described architecture.
    """
    description = read_description(folder, kind)
    net = _abstract_network(folder, description)
    names = parameter_names(net)
    weights = (
        _restore_weights(folder / ORBAX, net, description)
        if (folder / ORBAX).is_dir()
        else _read_weights(folder / WEIGHTS)
    )
    _check_names(folder, set(names), set(weights))
    leaves, structure = jax.tree.flatten(net)
    for name, leaf in zip(names, leaves, strict=True):
        if weights[name].shape != leaf.shape:
            raise ValueError(
                f"{folder / WEIGHTS}: {name} has shape {weights[name].shape}, the "
                f"architecture in {DESCRIPTION} needs {leaf.shape}."
            )
    arrays = [jax.numpy.asarray(weights[name]) for name in names]
    return jax.tree.unflatten(structure, arrays), description


def _abstract_network(folder: Path, description: dict[str, Any]) -> Any:
    try:
        architecture = description["architecture"]
        return Architecture.of(
            architecture["name"], **architecture["arguments"]
        ).abstract()
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / DESCRIPTION} does not describe a network that can be built: "
            f"{error}."
        ) from error


def read_description(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """Read `model.json`; `kind` None accepts every kind.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, or of another kind or format.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; a {kind or 'model'} is a folder with {WEIGHTS} "
            f"and {DESCRIPTION}, as written by `diffctl train`."
        )
    description = read_json(path)
    found = description.get("kind") if isinstance(description, dict) else None
    wanted = kind or found
    if found is None or found != wanted or description.get("format") != FORMAT:
        raise ValueError(
            f"{path} describes a {found!r}, expected a {wanted!r} in format {FORMAT}."
        )
    return description


def _read_weights(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; the folder is incomplete.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or not a safetensors file: {error}."
        ) from error


def _restore_weights(
    path: Path, net: Any, description: dict[str, Any]
) -> dict[str, np.ndarray]:
    dtypes = description.get("dtypes", {})
    like = {
        name: jax.ShapeDtypeStruct(leaf.shape, dtypes.get(name, leaf.dtype))
        for name, leaf in zip(parameter_names(net), jax.tree.leaves(net), strict=True)
    }
    return checkpoint.restore(path, like)


def _check_names(folder: Path, needed: set[str], found: set[str]) -> None:
    if needed != found:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit {DESCRIPTION}: "
            f"missing {sorted(needed - found)[:5]}, "
            f"unknown {sorted(found - needed)[:5]}."
        )
