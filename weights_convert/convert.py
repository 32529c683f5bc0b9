"""From the tensors of a checkpoint to the parameters of a network."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from weights_convert.families import FAMILIES, STRANGERS
from weights_convert.families.base import Config, ConfigError, Family, Plan
from weights_convert.families.looked import Looked
from weights_convert.mapping import (
    MappingError,
    Shapes,
    Source,
    leaves_of,
    match,
    part_shape,
)
from weights_convert.transforms import Leaf, forward
from weights_convert.values import check_not_empty, check_types, kept_as


class Tensor(Protocol):
    """A tensor of a file, read on demand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the lengths of the axes."""

    @property
    def dtype(self) -> np.dtype:
        """Return the type of the numbers."""

    def read(self) -> np.ndarray:
        """Return the values."""


class Conversion(NamedTuple):
    """A checked assignment of tensors to parameters; nothing has been read yet."""

    family: Family
    plan: Plan
    net: Any  # abstract
    leaves: Mapping[str, Leaf]
    sources: Mapping[str, list[Source]]
    tensors: Mapping[str, Tensor]
    ignored: tuple[str, ...]  # tensors of other networks in the file
    notes: tuple[str, ...] = ()  # what of the source was taken, for the user


def prepare(
    tensors: Mapping[str, Tensor], config: Config, family: str | None = None
) -> Conversion:
    """Recognise the family, plan the network and match every tensor.

    Args:
        tensors: of the file, by name.
        config: settings, in any form that the family knows.
        family: its name; None to detect it from the tensor names.

    Raises:
        ConfigError: no family fits, or a setting is missing or contradicts the file.
        MappingError: tensors and network do not fit together.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    chosen = detect(shapes) if family is None else _named(family, shapes)
    plan, net = _plan(chosen, shapes, config)
    ignored = tuple(name for name in shapes if name.startswith(plan.ignored or ("\0",)))
    leaves = leaves_of(net)
    rest = {
        name: shape
        for name, shape in shapes.items()
        if name not in ignored and name not in plan.constants
    }
    check_not_empty(rest)
    _check_constants(plan, tensors)
    sources = match(rest, plan.rules, leaves)
    check_types(sources, tensors)
    return Conversion(chosen, plan, net, leaves, sources, tensors, ignored)


def detect(shapes: Shapes) -> Family:
    """Return the one family whose marks the tensor names bear.

    Raises:
        ConfigError: none does.
    """
    for family in FAMILIES.values():
        if family.detect(shapes):
            return family
    some = ", ".join(sorted(shapes)[:5])
    raise ConfigError(
        f"none of the known families has tensors like {some}.{_stranger(shapes)} Known "
        f"families: {', '.join(FAMILIES)}. Choose with --family."
    )


def _stranger(shapes: Shapes) -> str:
    """Return what tensors of a network that is often met belong to, if they do."""
    parts = {part for name in shapes for part in name.split(".")}
    marks = (what for mark, what in STRANGERS.items() if mark in parts)
    found = next(marks, "")
    return f" They are of {found}." if found else ""


def _named(name: str, shapes: Shapes) -> Family:
    if name not in FAMILIES:
        raise ConfigError(
            f"there is no family {name!r}; choose one of {', '.join(FAMILIES)}."
        )
    if not FAMILIES[name].detect(shapes):
        raise MappingError(
            f"the file lacks tensors that every {FAMILIES[name].title} has. Leave out "
            "--family to have it recognised."
        )
    return FAMILIES[name]


def _plan(family: Family, shapes: Shapes, config: Config) -> tuple[Plan, Any]:
    """Return the plan and the abstract network.

    Raises:
        ConfigError: a setting is missing or contradicts the file.
        MappingError: the shapes are not those of any network of the family.
    """
    looked = Looked(shapes)
    try:
        settings = family.settings(config)
        family.declared.check(settings)
        plan = family.plan(looked, settings)
        return plan, plan.architecture.abstract()
    except (ConfigError, MappingError):
        raise
    except KeyError as error:
        raise MappingError(
            f"the file lacks {error}, which every {family.title} has."
        ) from error
    except IndexError as error:
        first = f"{looked.last} of shape {shapes.get(looked.last)} does not fit"
        raise MappingError(
            f"the tensors and settings describe no {family.title}: "
            f"{first if looked.last else 'most of it is missing'}."
        ) from error
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise MappingError(
            f"the tensors and settings describe no {family.title}: {error}"
        ) from error


def parameter(conversion: Conversion, path: str) -> np.ndarray:
    """Read and transform what fills one parameter, in the dtype of the file.

    Parts of different types are brought to one that holds them all.
    """
    leaf, kept = conversion.leaves[path], stored_dtype(conversion, path)
    parts = []
    for tensor, rule in conversion.sources[path]:
        target = leaf._replace(shape=part_shape(leaf, rule.part))
        array = conversion.tensors[tensor].read()
        parts.append(forward(rule.transform, array, target))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part.astype(kept, copy=False) for part in parts], axis=-1)


def parameters(conversion: Conversion) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every parameter with its path, one at a time."""
    for path in conversion.leaves:
        yield path, parameter(conversion, path)


def stored_dtype(conversion: Conversion, path: str) -> np.dtype:
    """Return the dtype of a parameter in the file, or one that holds its numbers."""
    return kept_as(conversion.tensors[s.tensor].dtype for s in conversion.sources[path])


def build(conversion: Conversion) -> Any:
    """Return the network with the parameters of the file, in memory."""
    arrays = [
        jax.numpy.asarray(array.astype(stored_dtype(conversion, path), copy=False))
        for path, array in parameters(conversion)
    ]
    return jax.tree.unflatten(jax.tree.structure(conversion.net), arrays)


def _check_constants(plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Compare buffers such as resampling filters with what the network computes.

    Raises:
        MappingError: one is missing or has other values.
    """
    for name, expected in plan.constants.items():
        if name not in tensors:
            raise MappingError(f"the file lacks the buffer {name}.")
        if np.dtype(tensors[name].dtype).kind == "c":
            raise MappingError(f"the buffer {name} holds complex numbers.")
        found = np.asarray(tensors[name].read(), np.float32)
        if found.shape != expected.shape or not np.allclose(found, expected, atol=1e-6):
            raise MappingError(
                f"the buffer {name} holds {found.ravel()[:4]}...; the settings make it "
                f"{expected.ravel()[:4]}.... Correct {name.rpartition('.')[2]} in the "
                "configuration."
            )


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name a file in what is said of its tensors and of its settings."""
    try:
        yield
    except (ConfigError, MappingError) as error:
        if str(file) in str(error):
            raise
        raise type(error)(f"{file}: {error}") from error
