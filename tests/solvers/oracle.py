"""A denoiser that knows the truth, and problems with chosen singular values."""

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import DiffusionPrior
from diffctl.diffusion import NoiseLevel
from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.pytree import pytree_dataclass
from tests.affine import AffineMap, affine_map

SINGULAR_VALUES = (2.0, 0.6, 0.05, 0.0)


@pytree_dataclass
class Oracle(DiffusionPrior):
    """D(x; sigma) = truth, wherever x is."""

    truth: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.truth.shape

    def denoise(self, x, sigma):
        return self.truth + 0 * x


def matrix(values=SINGULAR_VALUES, num_rows=None):
    """Return a matrix with these singular values and its right singular vectors."""
    size = len(values)
    rng = np.random.default_rng(11)
    left, right = (np.linalg.qr(rng.normal(size=(size, size)))[0] for _ in range(2))
    return (left * np.asarray(values)) @ right.T, right


def problem(a, y, std):
    operator = DenseMatrix.from_array(jnp.asarray(a))
    return Problem(y=jnp.asarray(y), operator=operator, noise=GaussianNoise(std=std))


def level(sigma):
    sigma = jnp.asarray(float(sigma))
    return NoiseLevel(sigma=sigma, scale=jnp.ones(()), time=sigma)


def marginal(step, truth, a, std):
    """Mean and covariance of `step(y, eps, z)` over measurement noise, eps and z.

    `step` is affine; with an oracle denoiser it must keep N(truth, sigma'^2 I).
    """
    size = truth.size
    y, zeros = jnp.asarray(a @ truth), jnp.zeros(size)
    maps: list[AffineMap] = [
        affine_map(lambda n, z: step(y + std * n, zeros, z), (size,)),
        affine_map(lambda eps, z: step(y, eps, zeros), (size,)),
    ]
    factors = [maps[0].matrix, maps[0].noise, maps[1].matrix]
    covariance = sum(np.asarray(f) @ np.asarray(f).T for f in factors)
    return np.asarray(maps[0].offset), covariance
