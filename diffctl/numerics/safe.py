"""Roots, quotients and norms whose gradients stay finite at zero.

Each guards the argument as well as the result: `where(x > 0, sqrt(x), 0)` alone has the
gradient 0 * inf = NaN at zero.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


@jax.custom_jvp
def safe_sqrt(x: ArrayLike) -> jax.Array:
    """Return sqrt(max(x, 0)), with gradient 0 wherever x <= 0; NaN of NaN."""
    # No `where(x > 0, sqrt(where(x > 0, x, 1)), 0)`: a compiler that computes a
    # difference x twice, rounded once and not, takes the 1 for the root of x = 0.
    return jnp.sqrt(jnp.maximum(x, 0))


@safe_sqrt.defjvp
def _safe_sqrt_jvp(
    primals: tuple[Any], tangents: tuple[Any]
) -> tuple[jax.Array, jax.Array]:
    root = safe_sqrt(*primals)
    return root, safe_divide(tangents[0], 2 * root)


def root_of_difference(a: ArrayLike, b: ArrayLike) -> jax.Array:
    """Return sqrt(max(a^2 - b^2, 0)) for a, b >= 0, exactly 0 where b = a.

    As a product: of two squares that are rounded, or of which a compiler rounds only
    one, the difference is the root's worst error, sqrt(eps) a. The gradient is that of
    `safe_sqrt`.
    """
    return safe_sqrt(jnp.subtract(a, b) * jnp.add(a, b))


def safe_divide(
    numerator: ArrayLike, denominator: ArrayLike, otherwise: ArrayLike = 0
) -> jax.Array:
    """Return numerator / denominator, and `otherwise` where the denominator is 0.

    There the gradients with respect to both arguments are 0.
    """
    nonzero = jnp.not_equal(denominator, 0)
    quotient = jnp.divide(numerator, jnp.where(nonzero, denominator, 1))
    return jnp.where(nonzero, quotient, otherwise)


def binary_scale(tree: Any) -> jax.Array:
    """Return the largest power of two up to max |entry|, (); 1 for zeros and for NaN.

    Dividing by it makes squares fit whatever the unit of the entries, and rounds
    nothing. A constant to autodiff: what is divided by a power of two and multiplied by
    it again does not depend on it. Its inverse is a normal number too, since compilers
    multiply by that and flush what is smaller to zero.

    Args:
        tree: an array or a pytree of arrays, real or complex; a complex entry counts
            as its two parts.
    """
    largest = jax.tree.reduce(jnp.maximum, jax.tree.map(_largest, tree))
    largest = lax.stop_gradient(largest)
    useful = (largest > 0) & jnp.isfinite(largest)
    mantissa, _ = jnp.frexp(jnp.where(useful, largest, 1))
    power = jnp.where(useful, largest, 1) / (2 * mantissa)
    return jnp.minimum(power, 1 / jnp.finfo(power.dtype).tiny)


@jax.custom_jvp
def safe_norm(tree: Any) -> jax.Array:
    """Return the Euclidean norm of all entries of a pytree; gradient 0 at zero.

    Right for entries of any size: their squares may over- or underflow.

    Args:
        tree: an array or a pytree of arrays, real or complex.

    Returns:
        A real scalar.
    """
    scale = binary_scale(tree)
    squares = jax.tree.map(lambda leaf: squared_norm(leaf / scale), tree)
    return scale * safe_sqrt(jax.tree.reduce(jnp.add, squares))


@safe_norm.defjvp
def _safe_norm_jvp(
    primals: tuple[Any], tangents: tuple[Any]
) -> tuple[jax.Array, jax.Array]:
    """Multiply the change by x / |x|, so that its own size is kept as well."""
    (tree,), (change,) = primals, tangents
    scale = binary_scale(tree)
    scaled = jax.tree.map(lambda leaf: leaf / scale, tree)
    norm = safe_norm(scaled)

    def component(leaf: jax.Array, by: jax.Array) -> Any:
        if by.dtype == jax.dtypes.float0:  # integers do not change
            return 0
        return jnp.sum(real_product(safe_divide(leaf, norm), by))

    along = jax.tree.map(component, scaled, change)
    return scale * norm, jax.tree.reduce(jnp.add, along)


def squared_norm(x: ArrayLike) -> jax.Array:
    """Return sum |x|^2 of an array, real or complex, as a real scalar.

    The squares must fit: divide by `binary_scale` where the unit of x is not known.
    """
    x = jnp.asarray(x)
    return jnp.sum(real_product(x, x))


def real_product(x: ArrayLike, y: ArrayLike) -> jax.Array:
    """Return Re(conj(x) y) of every pair of entries."""
    return jnp.real(x) * jnp.real(y) + jnp.imag(x) * jnp.imag(y)


def _largest(x: ArrayLike) -> jax.Array:
    x = jnp.asarray(x)
    parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    each = [jnp.max(jnp.abs(part), initial=0) for part in parts]
    return jax.tree.reduce(jnp.maximum, each)
