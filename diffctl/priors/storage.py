"""Networks on disk: `weights.safetensors` and `model.json`, never a pickle.

The converter can write an Orbax checkpoint in place of the safetensors file.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import numpy as np
from numpy.typing import ArrayLike

from diffctl.host import (
    MODEL,
    Count,
    check_settings,
    new_folder,
    parse_json,
    read_json,
    show,
    to_json,
)
from diffctl.nets.architecture import Architecture
from diffctl.priors.weights import ORBAX as ORBAX
from diffctl.priors.weights import WEIGHTS as WEIGHTS
from diffctl.priors.weights import (
    check_table,
    count_scalars,
    read_arrays,
    read_table,
    weights_of,
)

DESCRIPTION = "model.json"
FORMAT = 1


class Described(TypedDict):
    """What `model.json` holds of every model, besides its kind and the format.

    Kinds of models have fields of their own, in subclasses.
    """

    architecture: Mapping[str, Any]
    shape: NotRequired[Sequence[Count]]


def parameter_names(net: Any) -> list[str]:
    """Return the dotted path of every parameter, in the order of `jax.tree.leaves`."""
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(net)[0]]
    names = [jax.tree_util.keystr(p, simple=True, separator=".") for p in paths]
    return [name.removesuffix(".value") for name in names]


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write `model.json`; of the notes, numbers that are not finite become null.

    Raises:
        ValueError: a setting is not finite, which JSON has no number for, or the notes
            are more than `read_description` would read.
    """
    settings = {name: v for name, v in description.items() if name != "notes"}
    try:
        json.dumps(settings, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"a setting of the model is not finite, which {DESCRIPTION} cannot hold: "
            f"{settings}."
        ) from error
    text = to_json({"format": FORMAT} | description)
    try:
        parse_json(text.encode(), DESCRIPTION)
    except ValueError as error:
        raise ValueError(
            f"the notes of the model are too long or too deep: {error} Keep them in a "
            "file of their own."
        ) from error
    (folder / DESCRIPTION).write_text(text)


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


def read_model(
    folder: Path, *, kind: str, fields: type = Described
) -> tuple[Any, dict[str, Any]]:
    """Read a network of the given kind and its description.

    Args:
        folder: with both.
        kind: of the model.
        fields: the `TypedDict` of what `model.json` must hold.

    Raises:
        FileNotFoundError: the folder or one of its two files is missing.
        ValueError: a file is damaged, of another kind or format, the tensors are not
            those of the described architecture, or they have numbers that are not
            finite.
    """
    description = read_description(folder, kind, fields)
    return read_net(folder, description), description


def read_net(folder: Path, description: Mapping[str, Any]) -> Any:
    """Read the network of a folder whose description was read.

    Raises:
        FileNotFoundError: the parameters are missing.
        ValueError: as `read_model`.
    """
    path = weights_of(folder)
    table = read_table(path)
    with correcting(folder):
        architecture = Architecture.from_json(description["architecture"])
        net = architecture.abstract_within(len(table), count_scalars(table))
    leaves, structure = jax.tree.flatten(net)
    names = parameter_names(net)
    shapes = [leaf.shape for leaf in leaves]
    check_table(path, table, dict(zip(names, shapes, strict=True)))
    arrays = read_arrays(path, table)
    return jax.tree.unflatten(structure, [arrays[name] for name in names])


@contextlib.contextmanager
def correcting(folder: Path) -> Iterator[None]:
    """Say of what is wrong with a setting of a model which file it is in."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"{folder / DESCRIPTION}: {error} Correct it there, or save the model "
            "again."
        ) from error


def read_description(
    folder: Path, kind: str | None = None, fields: type = Described
) -> dict[str, Any]:
    """Read `model.json`.

    Args:
        folder: of the model.
        kind: of the model; None accepts every kind.
        fields: the `TypedDict` of what it must hold.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, of another kind or format, or a field is not what it
            must be.
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
    is_format = isinstance(found, str) and description.get("format") == FORMAT
    if not is_format or found != wanted:
        raise ValueError(
            f"{path} describes a {show(found)}, expected a {wanted!r} in format "
            f"{FORMAT}."
        )
    with correcting(folder):
        check_settings(fields, description, "the model", others=True)
    return description
