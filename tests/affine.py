"""Affine maps x' = M x + c + N z: found by probing, then propagated in closed form.

With a Gaussian prior every sampler whose guidance is linear in the residual is such a
map, so that means and covariances can be compared to rounding instead of to sampling
error.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST


class AffineMap(NamedTuple):
    matrix: jax.Array  # M, (..., d, d)
    offset: jax.Array  # c, (..., d)
    noise: jax.Array  # N, (..., d, d)


def affine_map(
    function: Callable[[jax.Array, jax.Array], jax.Array], shape: tuple[int, ...]
) -> AffineMap:
    """Probe `function(x, z) -> x'`, all (*shape), with basis vectors."""
    size = math.prod(shape)
    # Rows: the origin, then the basis of x, then that of z; one trace of the function.
    probes = jnp.eye(2 * size + 1)[:, 1:].reshape((-1, 2, *shape))
    outputs = jax.vmap(function)(probes[:, 0], probes[:, 1]).reshape(-1, size)
    columns = (outputs - outputs[:1]).T
    return AffineMap(
        matrix=columns[:, 1 : size + 1],
        offset=outputs[0],
        noise=columns[:, size + 1 :],
    )


def propagate(
    maps: AffineMap, mean: jax.Array, covariance: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Push moments through maps stacked along axis 0.

    Returns the means (T, d) and covariances (T, d, d) after every map.
    """

    def body(moments, step):
        mean, covariance = moments
        mean = jnp.matmul(step.matrix, mean, precision=HIGHEST) + step.offset
        spread = jnp.matmul(step.matrix, covariance, precision=HIGHEST)
        covariance = jnp.matmul(spread, step.matrix.T, precision=HIGHEST)
        covariance += jnp.matmul(step.noise, step.noise.T, precision=HIGHEST)
        return (mean, covariance), (mean, covariance)

    return jax.lax.scan(body, (mean, covariance), maps)[1]
