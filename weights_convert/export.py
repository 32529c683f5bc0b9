"""The way back: parameters of this library in the layout of a PyTorch project."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffctl.host import new_file
from diffctl.nets.architecture import Architecture
from diffctl.priors.storage import parameter_names
from weights_convert.families import FAMILIES
from weights_convert.families.base import ConfigError, Family
from weights_convert.mapping import expected_tensors, leaves_of, part_shape
from weights_convert.output import Progress, write_safetensors
from weights_convert.transforms import inverse


def tensors(
    net: Any, architecture: Architecture, family: Family, order: str | None = None
) -> dict[str, np.ndarray]:
    """Return a network's parameters by the names and in the layout of a family.

    Args:
        net: the network.
        architecture: its description.
        family: whose layout.
        order: "legacy" or "new" attention channels, where the family has both.

    Raises:
        ConfigError: files of the family do not hold such a network.
    """
    if architecture.name not in family.architectures:
        able = [f for f in FAMILIES.values() if architecture.name in f.architectures]
        fitting = ", ".join(other.name for other in able) or "none"
        raise ConfigError(
            f"files of the family {family.name} do not hold a network of the kind "
            f"{architecture.name}; families that do: {fitting}."
        )
    rules, leaves = family.table(architecture, order), leaves_of(net)
    found = dict(family.buffers(architecture))
    for path, array in zip(parameter_names(net), jax.tree.leaves(net), strict=True):
        leaf = leaves[path]
        for name, rule in expected_tensors(path, rules, leaves):
            part = _part(np.asarray(array), rule.part)
            target = leaf._replace(shape=part_shape(leaf, rule.part))
            found[name] = inverse(rule.transform, part, target)
    return found


def write(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    progress: Progress = lambda written: None,
) -> None:
    """Write tensors to a safetensors file, complete or not at all.

    Raises:
        FileExistsError: the file exists.
    """
    with new_file(path, overwrite=False) as scratch:
        sizes = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        write_safetensors(scratch, sizes, arrays.__getitem__, progress)


def _part(array: np.ndarray, part: int | None) -> np.ndarray:
    return array if part is None else np.split(array, 3, axis=-1)[part]
