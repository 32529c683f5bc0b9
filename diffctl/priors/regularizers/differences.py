"""Forward differences, zero at the end of each axis, and their transpose.

    (D_a x)_i = x_{i+1} - x_i,  0 for the last i along axis a
    (D^T z)_i = sum_a z_{a,i-1} - z_{a,i},  without terms from outside

|D|^2 <= 4 for each axis.
"""

import jax
import jax.numpy as jnp
from jax import lax


def differences(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Return D x, (len(axes), *shape)."""
    return jnp.stack([_pad_end(jnp.diff(x, axis=axis), axis) for axis in axes])


def differences_adjoint(z: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Return D^T z, (*shape); `z` (len(axes), *shape)."""
    parts = []
    for part, axis in zip(z, axes, strict=True):
        inside = lax.slice_in_dim(part, 0, part.shape[axis] - 1, axis=axis)
        parts.append(_pad_start(inside, axis) - _pad_end(inside, axis))
    return sum(parts[1:], start=parts[0])


def _pad_end(x: jax.Array, axis: int) -> jax.Array:
    return jnp.pad(x, [(0, int(a == axis)) for a in range(x.ndim)])


def _pad_start(x: jax.Array, axis: int) -> jax.Array:
    return jnp.pad(x, [(int(a == axis), 0) for a in range(x.ndim)])
