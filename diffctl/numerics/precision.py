"""Numbers as JAX computes with them, for checks on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.numerics.dtypes import default_float


def as_computed(value: Any, dtype: Any = None) -> np.ndarray:
    """Return concrete numbers rounded to the precision in which they are computed with.

    What holds for numbers in Python need not hold for those on the device: in float32
    1e-50 is 0, 1e39 is infinite, and 1 - 1e-9 is 1. Subnormal numbers count as 0, since
    XLA flushes them.

    Args:
        value: numbers, not traced.
        dtype: by default JAX's float, or that of `value` if it is an array of floats
            on the device.
    """
    if dtype is None:
        keeps = isinstance(value, jax.Array) and jnp.issubdtype(
            value.dtype, jnp.floating
        )
        dtype = value.dtype if keeps else default_float()
    with np.errstate(over="ignore", under="ignore"):
        cast = np.asarray(value).astype(dtype)
    return np.where(np.abs(cast) < jnp.finfo(dtype).tiny, np.zeros_like(cast), cast)
