"""Estimates of the clean image: Euler steps of the unconditional probability flow.

    u <- x,    u <- u + (g_{i+1} - g_i) (u - D(u; g_i)) / g_i

over levels g equally spaced in g^(1/7) from that of x down to `sigma_end`. A single
step to the clean level is the denoiser itself (Tweedie's formula).
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.core import DiffusionPrior
from diffctl.diffusion import Euler, NoiseGrid, NoiseLevel, power_levels
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class Flow(abc.ABC):
    """A probability flow of `num_steps` network calls from the state to an estimate.

    Args:
        num_steps: network calls, at least 1.
        sigma_end: last noisy level.
    """

    num_steps: int = static(default=1)
    sigma_end: Any = 0.01

    @abc.abstractmethod
    def levels(self, sigma: jax.Array) -> jax.Array:
        """Return the levels from `sigma` on, (num_steps + 1,)."""

    def __call__(
        self, prior: DiffusionPrior, x: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        """Return the end of the flow from `x` (*shape) at level `sigma`."""
        levels = self.levels(sigma)
        grid = NoiseGrid(sigma=levels, scale=jnp.ones_like(levels), time=levels)

        def body(
            u: jax.Array, pair: tuple[NoiseLevel, NoiseLevel]
        ) -> tuple[jax.Array, None]:
            return Euler()(prior, u, *pair), None

        return lax.scan(body, x, grid.pairs())[0]

    def _spaced(self, sigma: jax.Array, num_levels: int) -> jax.Array:
        # Never upwards: a state below `sigma_end` stays at its level.
        end = jnp.minimum(jnp.asarray(self.sigma_end, sigma.dtype), sigma)
        return power_levels(sigma, end, num_levels)


@pytree_dataclass
class FlowToClean(Flow):
    """The flow down to the clean level; one step is the denoiser D(x; sigma)."""

    def levels(self, sigma: jax.Array) -> jax.Array:
        noisy = self._spaced(sigma, self.num_steps)
        return jnp.append(noisy, jnp.zeros_like(sigma))


@pytree_dataclass
class FlowToLevel(Flow):
    """The flow down to `sigma_end`, whose noise the result still carries."""

    def levels(self, sigma: jax.Array) -> jax.Array:
        return self._spaced(sigma, self.num_steps + 1)
