"""What users see: names, docstrings, and classes that JAX knows as pytrees."""

import dataclasses
import importlib
import inspect
import pkgutil
import typing

import jax
import pytest

import diffctl
from diffctl.core import (
    AmortisedEstimator,
    AmortisedSampler,
    ConditionalDiffusion,
    DiffusionPrior,
    GenerativePrior,
    ProximalPrior,
    ScorePrior,
    Solver,
)
from diffctl.diffusion import DDIM, Renoise
from diffctl.operators.base import NoiseModel, Operator
from diffctl.solvers.generative.chains import Kernel
from diffctl.solvers.variational.families import Expectation, Family
from tests.source import ROOT, files, module_name, tree_of

ROOMS = ["diffctl"] + [
    module_name(path)
    for path in files("diffctl")
    if path.name == "__init__.py" and path.parent != ROOT / "diffctl"
]
BASES = (
    *(DiffusionPrior, ProximalPrior, ScorePrior, GenerativePrior),
    *(AmortisedEstimator, AmortisedSampler, ConditionalDiffusion),
    *(Solver, Operator, NoiseModel),
    *(Kernel, Family, Expectation),
)


def _exports(room: str) -> list[str]:
    """Return the names that a room re-exports as `X as X`, or lists in `__all__`."""
    module = importlib.import_module(room)
    if hasattr(module, "__all__"):
        return list(module.__all__)
    (path,) = (p for p in files("diffctl") if module_name(p) == room)
    return [
        alias.asname
        for node in tree_of(path).body
        if hasattr(node, "names") and hasattr(node, "module")
        for alias in node.names
        if alias.asname is not None and not alias.asname.startswith("_")
    ]


def _classes() -> dict[str, type]:
    """Return every class defined in the package, importing all of its modules."""
    found = {}
    for info in pkgutil.walk_packages(diffctl.__path__, "diffctl."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == info.name:
                found[f"{info.name}.{name}"] = value
    return found


CLASSES = _classes()


def _is_tree(cls: type) -> bool:
    """Return whether a class is meant to be a pytree: by its fields or by its base."""
    fields = getattr(cls, "__dataclass_fields__", {}).values()
    declared = any("static" in field.metadata for field in fields)
    return not inspect.isabstract(cls) and (declared or issubclass(cls, BASES))


TREES = {name: cls for name, cls in CLASSES.items() if _is_tree(cls)}


@pytest.mark.parametrize("room", ROOMS)
def test_exports_are_unique_and_explained(room):
    module = importlib.import_module(room)
    assert module.__doc__, f"{room} has no docstring"
    names = _exports(room)
    repeated = {name for name in names if names.count(name) > 1}
    assert not repeated, f"{room} exports {repeated} twice"
    bare = []
    for name in names:
        value = getattr(module, name)
        is_alias = typing.get_origin(value) is not None
        documented = (callable(value) or inspect.ismodule(value)) and not is_alias
        text = inspect.getdoc(value) if documented else "a constant"
        # A dataclass without a docstring gets its signature as one.
        if not text or text.startswith(f"{name}("):
            bare.append(name)
    assert not bare, f"{room}: no docstring on {bare}"


@pytest.mark.parametrize("name", TREES)
def test_concrete_classes_are_registered_with_jax(name):
    """An unregistered subclass would silently be a single leaf."""
    cls = TREES[name]
    assert dataclasses.is_dataclass(cls), f"decorate {name} with pytree_dataclass"
    fields = dataclasses.fields(cls)
    instance = object.__new__(cls)
    for field in fields:
        fixed = field.metadata.get("static", False)
        object.__setattr__(instance, field.name, "static" if fixed else object())
    leaves = jax.tree.leaves(instance)
    expected = [
        getattr(instance, f.name) for f in fields if not f.metadata.get("static", False)
    ]
    assert leaves == expected, f"decorate {name} with pytree_dataclass"


def test_there_are_classes_of_every_kind():
    for base in (DiffusionPrior, Solver, Operator, NoiseModel):
        assert any(issubclass(cls, base) for cls in TREES.values()), base


def test_structures_of_different_classes_differ():
    """Equal structures would let `jax.jit` run the program of another class."""
    structures = [jax.tree.structure(cls(eta=0.5)) for cls in (DDIM, Renoise)]
    assert structures[0] != structures[1]
    assert structures[0] == jax.tree.structure(DDIM(eta=0.7))
