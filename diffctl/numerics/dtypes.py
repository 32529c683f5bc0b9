"""The dtype that a number has when nobody names one."""

import jax
import jax.numpy as jnp
import numpy as np


def default_float() -> np.dtype:
    """Return JAX's default floating dtype: float32, or float64 where that is enabled.

    Python's `float` itself is no substitute: where a dtype is named it means float64,
    which JAX then warns about and cuts to float32.
    """
    return np.dtype(jnp.result_type(float))


def float_spec(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Return what stands for an array of default floats of `shape` while tracing."""
    return jax.ShapeDtypeStruct(shape, default_float())
