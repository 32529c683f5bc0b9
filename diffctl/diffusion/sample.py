"""Unconditional sampling: one scan over the levels of a grid."""

import jax

from diffctl.core import DiffusionPrior
from diffctl.diffusion.grids import NoiseGrid, NoiseLevel
from diffctl.diffusion.reverse import ReverseStep


def sample(
    key: jax.Array, prior: DiffusionPrior, grid: NoiseGrid, step: ReverseStep
) -> jax.Array:
    """Draw one example from the prior, (*prior.shape), in the dtype of the grid.

    Starts from N(0, sigma_max^2 I), which neglects the clean signal beside the noise.
    Batches are made by `jax.vmap` over the key. Costs `step.calls * grid.num_steps`
    forward passes.

    Args:
        key: a typed PRNG key.
        prior: the denoiser.
        grid: noise levels, noisiest first.
        step: the reverse step.
    """
    key_start, key_steps = jax.random.split(key)
    dtype = grid.sigma.dtype
    start = grid.sigma[0] * jax.random.normal(key_start, prior.shape, dtype)
    keys = jax.random.split(key_steps, grid.num_steps)

    def body(
        x: jax.Array, xs: tuple[NoiseLevel, NoiseLevel, jax.Array]
    ) -> tuple[jax.Array, None]:
        now, next_, key_noise = xs
        noise = (
            jax.random.normal(key_noise, prior.shape, dtype)
            if step.stochastic
            else None
        )
        return step(prior, x, now, next_, noise), None

    x, _ = jax.lax.scan(body, start, (*grid.pairs(), keys))
    return x
