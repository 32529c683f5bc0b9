"""Roots, quotients and norms whose gradients stay finite at zero.

Each guards the argument as well as the result: `where(x > 0, sqrt(x), 0)` alone has the
gradient 0 * inf = NaN at zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def safe_sqrt(x: ArrayLike) -> jax.Array:
    """Return sqrt(max(x, 0)), with gradient 0 wherever x <= 0."""
    x = jnp.asarray(x)
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def safe_divide(
    numerator: ArrayLike, denominator: ArrayLike, otherwise: ArrayLike = 0
) -> jax.Array:
    """Return numerator / denominator, and `otherwise` where the denominator is 0.

    There the gradients with respect to both arguments are 0.
    """
    nonzero = jnp.not_equal(denominator, 0)
    quotient = jnp.divide(numerator, jnp.where(nonzero, denominator, 1))
    return jnp.where(nonzero, quotient, otherwise)


def safe_norm(tree: Any) -> jax.Array:
    """Return the Euclidean norm of all entries of a pytree; gradient 0 at zero.

    Args:
        tree: an array or a pytree of arrays, real or complex.

    Returns:
        A real scalar. Entries are not rescaled: the squares must not overflow.
    """
    return safe_sqrt(jax.tree.reduce(jnp.add, jax.tree.map(squared_norm, tree)))


def squared_norm(x: ArrayLike) -> jax.Array:
    """Return sum |x|^2 of an array, real or complex, as a real scalar."""
    x = jnp.asarray(x)
    return jnp.sum(jnp.square(jnp.real(x)) + jnp.square(jnp.imag(x)))
