"""What solvers share that go down the levels of a grid, one step of the scan a level.

Their carry is the iterate x at the current level. A step is handed the level it is at,
the level it leads to and a key of its own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior, Solver
from diffctl.diffusion import Estimate, NoiseGrid, NoiseLevel, OneCallStep
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass

# Of a step: the level it is at and the one it leads to.
Levels = tuple[NoiseLevel, NoiseLevel]
PullBack = Callable[[jax.Array], jax.Array]


@pytree_dataclass
class LevelSolver(Solver):
    """A solver with one step for each pair of neighbouring levels of its grid.

    Subclasses write `step` for `x = (now, next, key)`, `start` if they know more about
    the first state than that it is noisy, and `levels` if they do not go straight down.
    """

    grid: NoiseGrid

    def start(
        self, noise: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        """Return the first state, (*shape), from a standard normal `noise`.

        By default the first level's marginal of a signal of unit variance, which is
        N(0, I) in variance-preserving coordinates.
        """
        return jnp.sqrt(1 + self.grid.sigma[0] ** 2) * noise

    def levels(self) -> tuple[NoiseLevel, ...]:
        """Return the levels that every step is handed, leaves (num_steps,)."""
        return self.grid.pairs()

    def state_shape(self, prior: Any) -> tuple[int, ...]:
        """Return the shape of the state."""
        return prior.shape

    def init(
        self, key: jax.Array, problem: Problem, prior: Any
    ) -> tuple[jax.Array, Any]:
        start_key, steps_key = jax.random.split(key)
        shape = self.state_shape(prior)
        noise = jax.random.normal(start_key, shape, self.grid.sigma.dtype)
        levels = self.levels()
        keys = jax.random.split(steps_key, levels[0].sigma.shape[0])
        return self.start(noise, problem, prior), (*levels, keys)

    def finalize(
        self, carry: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return carry


def estimate_with_pullback(
    reverse: OneCallStep, prior: DiffusionPrior, x: jax.Array, now: NoiseLevel
) -> tuple[Estimate, PullBack]:
    """Return the clean estimate D(x), and v -> J^T v with J = dD/dx.

    One forward; each use of the pull-back costs one VJP. The bound of the reverse step
    is inside the graph that is differentiated.
    """

    def denoised(x: jax.Array) -> tuple[jax.Array, Estimate]:
        estimate = reverse.estimate(prior, x, now)
        return estimate.x0_hat, estimate

    _, pull_back, estimate = jax.vjp(denoised, x, has_aux=True)
    return estimate, lambda v: pull_back(v)[0]
