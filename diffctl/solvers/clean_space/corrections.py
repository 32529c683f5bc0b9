"""Estimate, correct, noise again: the plan that DDS and DiffPIR share.

1. x0_hat = D(x; sigma), bounded
2. u      = x0_hat moved towards the data
3. x'     = u + sigma' (what is left of the old noise, and fresh noise)
"""

import abc
from typing import Any

import jax

from diffctl.core import Calls, DiffusionPrior, StepTrace
from diffctl.diffusion import Bound, NoiseLevel, clip
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.clean_space.penalties import BayesianPenalty, Penalty
from diffctl.solvers.levels import Levels, LevelSolver


@pytree_dataclass
class CorrectionSolver(LevelSolver):
    """A solver of the plan above. Subclasses say (2) and (3).

    Args:
        grid: noise levels, T steps.
        penalty: what holds the corrected image to the estimate.
        bound: applied to the estimate.
    """

    penalty: Penalty = BayesianPenalty()
    bound: Bound = static(default=clip)

    @abc.abstractmethod
    def correct(
        self, key: jax.Array, problem: Problem, x0_hat: jax.Array, now: NoiseLevel
    ) -> jax.Array:
        """Return u of (2), (*shape)."""

    @abc.abstractmethod
    def renoise(
        self,
        x: jax.Array,
        x0_hat: jax.Array,
        corrected: jax.Array,
        levels: Levels,
        noise: jax.Array,
    ) -> jax.Array:
        """Return x' of (3), (*shape), and u itself at the clean level."""

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, StepTrace]:
        state, (now, next, key) = carry, x
        key_noise, key_correct = jax.random.split(key)
        x0_hat = self.bound(prior.denoise(state, now.sigma))
        corrected = self.correct(key_correct, problem, x0_hat, now)
        noise = standard_normal(key_noise, state)
        moved = self.renoise(state, x0_hat, corrected, (now, next), noise)
        return moved, StepTrace(misfit=problem.misfit(corrected), calls=Calls(fwd=1))
