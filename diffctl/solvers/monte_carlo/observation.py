"""Gaussian factors in the measured directions, and where the signal has them."""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.diffusion import NoiseGrid
from diffctl.numerics.safe import safe_sqrt
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.spectral import SpectralData


@pytree_dataclass
class Observation:
    """The factors of g at one level, (k,) each."""

    centre: jax.Array  # b
    variance: jax.Array  # v, of any value where it is not active
    active: jax.Array  # bool

    def log_density(self, x: jax.Array, spread: Any, chosen: jax.Array) -> jax.Array:
        """Return sum over `chosen` of log N(x; b, v + spread), 2 pi left out."""
        variance = jnp.where(chosen, self.variance + spread, 1)
        terms = (x - self.centre) ** 2 / variance + jnp.log(variance)
        return -jnp.sum(jnp.where(chosen, terms, 0)) / 2

    def pull(self, x: jax.Array, spread: Any, z: jax.Array) -> jax.Array:
        """Return a draw of N(x, spread) times g where it is active, else of N(x, ..).

        `z` is standard normal, (k,).
        """
        variance = jnp.where(self.active, self.variance, 1)
        gain = spread / (spread + variance)
        drawn = x + gain * (self.centre - x) + safe_sqrt(gain * variance) * z
        return jnp.where(self.active, drawn, x + safe_sqrt(spread) * z)


def noisier_than_data(grid: NoiseGrid, data: SpectralData) -> jax.Array:
    """Return the levels s >= e_i of measured directions, but the clean one.

    (T + 1, k) bool: there the noisy signal can be led to y_i, which is one at e_i.
    """
    sigma = grid.sigma[:, None]
    return data.measured[None, :] & (sigma >= data.std[None, :]) & (sigma > 0)
