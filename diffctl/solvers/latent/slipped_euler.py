"""The Euler step of ReSample's released code, with its slip in Tweedie's formula."""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior
from diffctl.diffusion import Estimate, Euler, NoiseLevel
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class SlippedEuler(Euler):
    """`Euler`, but what others see of its estimate is (z_t - (1 - a) eps) / sqrt(a).

    The released code writes 1 - a for sqrt(1 - a) in Tweedie's formula, except where it
    moves the state. At low noise its estimate keeps most of the noise.
    """

    def estimate(
        self, prior: DiffusionPrior, x: jax.Array, now: NoiseLevel
    ) -> Estimate:
        x0_hat = super().estimate(prior, x, now).x0_hat
        return Estimate(x0_hat=x + _slip(now) * (x0_hat - x))

    def advance(
        self,
        x: jax.Array,
        estimate: Estimate,
        now: NoiseLevel,
        next: NoiseLevel,
        noise: Any = None,
    ) -> jax.Array:
        unslipped = Estimate(x0_hat=x + (estimate.x0_hat - x) / _slip(now))
        return super().advance(x, unslipped, now, next, noise)


def _slip(now: NoiseLevel) -> jax.Array:
    """Return sqrt(1 - a)."""
    return now.sigma / jnp.sqrt(1 + now.sigma**2)
