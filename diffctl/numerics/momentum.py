"""Nesterov's momentum, as in FISTA.

t' = (1 + sqrt(1 + 4 t^2)) / 2,   weight (t - 1) / t',   from t = 1
"""

import jax
import jax.numpy as jnp


def momentum(t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the weight of the last move in the next extrapolation, and the next t."""
    following = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
    return (t - 1) / following, following


def is_uphill(ahead: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    """Return whether the last move points up the energy, (): time to drop momentum.

    O'Donoghue and Candes, 2015. `ahead` is where the step to `new` was taken from, so
    that ahead - new is the gradient; the energy itself is not needed.
    """
    return jnp.sum((ahead - new) * (new - old)) > 0
