"""Tests for NaN and infinity over whole pytrees."""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp


def tree_is_finite(tree: Any) -> jax.Array:
    """Return whether every floating-point entry of a pytree is finite, () bool.

    Integers, booleans and typed PRNG keys are always finite.
    """
    leaves = [
        jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree) if _inexact(leaf)
    ]
    return reduce(jnp.logical_and, leaves, jnp.asarray(True))


def finite_or_zero(tree: Any) -> Any:
    """Return a pytree with zeros in place of its NaNs and infinities."""

    def cleaned(leaf: Any) -> Any:
        return jnp.where(jnp.isfinite(leaf), leaf, 0) if _inexact(leaf) else leaf

    return jax.tree.map(cleaned, tree)


def _inexact(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
