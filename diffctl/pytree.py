"""Frozen dataclasses that are JAX pytrees: floats are leaves, structure is static."""

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(**field_options: Any) -> Any:
    """Declare a dataclass field that is part of the tree structure, not a leaf.

    Use it for integers, shapes, dtypes and strategy functions: anything that changes
    the compiled program. Never for arrays.
    """
    return dataclasses.field(metadata={"static": True}, **field_options)


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    eq_default=False,
    field_specifiers=(static, dataclasses.field),
)
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass registered with JAX.

    The constructor also runs when JAX rebuilds the tree, with tracers or placeholders
    as fields, so classes neither validate nor convert in `__post_init__`; they do so in
    class-method factories. A subclass must be decorated again.
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    leaves, structure = _field_names(cls)

    def flatten(tree: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        static_values = tuple(getattr(tree, name) for name in structure)
        return tuple(getattr(tree, name) for name in leaves), static_values

    def flatten_with_keys(tree: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        values, static_values = flatten(tree)
        keys = map(jax.tree_util.GetAttrKey, leaves)
        return tuple(zip(keys, values, strict=True)), static_values

    def unflatten(static_values: tuple[Any, ...], values: Iterable[Any]) -> T:
        fields = dict(zip(leaves, values, strict=True))
        return cls(**fields, **dict(zip(structure, static_values, strict=True)))

    # Not register_dataclass: in jaxlib 0.10.2 the structures of two classes with equal
    # static fields compare equal (their hashes differ), so that now and then jit runs
    # the program of another class.
    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def axes(tree: T, **mapped: Any) -> T:
    """Return an `in_axes` prefix of the type of `tree`: unmapped but for `mapped`.

    Example: `jax.vmap(solve, in_axes=(None, None, None, axes(dps, guidance_scale=0)))`.
    """
    leaves_off = dict.fromkeys(_field_names(tree)[0])
    unknown = mapped.keys() - leaves_off.keys()
    if unknown:
        raise ValueError(
            f"{type(tree).__name__} has no array field {sorted(unknown)}; "
            f"choose from {sorted(leaves_off)}."
        )
    return dataclasses.replace(tree, **(leaves_off | mapped))  # type: ignore[type-var]


def _field_names(cls: Any) -> tuple[list[str], list[str]]:
    """Return the names of the array fields and of the static fields."""
    fields = dataclasses.fields(cls)
    leaves = [f.name for f in fields if not f.metadata.get("static")]
    return leaves, [f.name for f in fields if f.metadata.get("static")]
