"""Draws from N(0, I)."""

import jax


def standard_normal(key: jax.Array, like: jax.Array) -> jax.Array:
    """Draw z ~ N(0, I) of the shape and dtype of an array."""
    return jax.random.normal(key, like.shape, like.dtype)
