"""Which steps of ReSample find a point that explains the measurement, and where."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffctl.diffusion import NoiseGrid

Stages = Callable[[NoiseGrid, int], jax.Array]

GUIDED_ONLY, IN_PIXELS, IN_LATENTS = 0, 1, 2


def later_thirds(grid: NoiseGrid, every: int) -> jax.Array:
    """Return what each step does, (T,) int32: 0, `IN_PIXELS` or `IN_LATENTS`.

    With i = T - 1 .. 0 steps left after this one, a step is consistent if i is a
    positive multiple of `every` and not above T - T // 3; in pixels down to T // 3, in
    latents after.
    """
    left, third = _steps_left(grid), grid.num_steps // 3
    stage = jnp.where(left >= third, IN_PIXELS, IN_LATENTS)
    return _every(stage, left, every, left <= grid.num_steps - third)


def by_index(grid: NoiseGrid, every: int) -> jax.Array:
    """Return the same for the port of z-fabian/flash-diffusion.

    The index of a level among the 1000 that a network was trained on, the time of
    `grid`, decides: above 750 no step is consistent, above 300 they are in pixels.
    """
    left, index = _steps_left(grid), grid.time[:-1]
    stage = jnp.where(index > 300, IN_PIXELS, IN_LATENTS)
    return _every(stage, left, every, index <= 750)


def _steps_left(grid: NoiseGrid) -> jax.Array:
    return jnp.arange(grid.num_steps - 1, -1, -1)


def _every(stage: jax.Array, left: jax.Array, every: int, late: jax.Array) -> jax.Array:
    consistent = (left % every == 0) & (left > 0) & late
    return jnp.where(consistent, stage, GUIDED_ONLY).astype(jnp.int32)
