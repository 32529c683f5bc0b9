"""What is done to coordinates in singular directions, one by one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.factors import inverse_values
from diffctl.numerics.safe import binary_scale, real_product, safe_divide

# (s, z, *parameters) -> coordinates, entry by entry and linear in z.
SpectralRule = Callable[..., jax.Array]
# The same of several vectors: (s, (z, z', ...), *parameters), linear in all together.
JointRule = Callable[..., jax.Array]


def of_measurement(
    rule: SpectralRule, s: jax.Array, z: tuple[jax.Array], *parameters: Any
) -> jax.Array:
    """Return rule(s, z) of a single vector, as a joint rule."""
    return rule(s, *z, *parameters)


def inverted(s: jax.Array, z: jax.Array, cutoff: Any) -> jax.Array:
    """Return z / s, 0 where `inverse_values` is."""
    inverse = inverse_values(s, cutoff)
    # A selection, not only a product: what is hardly observed may be infinite.
    return jnp.where(inverse > 0, inverse * z, 0)


def damped(s: jax.Array, z: jax.Array, damping: jax.typing.ArrayLike) -> jax.Array:
    """Return conj(s) z / (|s|^2 + damping); s may be complex."""
    inverse = 1 / binary_scale(s)  # a square in the unit of A need not fit
    scaled, own = inverse * s, damping * inverse * inverse
    # s = 0 with a damping that is 0, or rounds to it, must not be 0 / 0.
    power = real_product(scaled, scaled)
    return safe_divide(jnp.conj(scaled), power + own) * (inverse * z)
