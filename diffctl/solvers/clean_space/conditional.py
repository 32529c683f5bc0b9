"""The law of the clean signal at one state of the reverse diffusion, given y.

log p(x0 | x_sigma, y) = log p(x0 | x_sigma) - l(x0),  l = -log p(y | A(x0))
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffctl.operators.base import Problem
from diffctl.solvers.clean_space.clean_laws import LocalLaw


class Conditional(NamedTuple):
    """p(x0 | x_sigma, y) at one state."""

    problem: Problem
    law: LocalLaw
    x0_hat: jax.Array  # (*shape)
    progress: jax.Array  # () in [0, 1), share of the levels that are done
    largest_pull: Any = jnp.inf  # () largest |entry| of the gradient of l in a score

    def score(self, v: jax.Array) -> jax.Array:
        """Return the gradient of the log density, (*shape)."""
        pull = jax.grad(self.problem.misfit)(v)
        return self.law.score(v) - jnp.clip(pull, -self.largest_pull, self.largest_pull)

    def log_density(self, v: jax.Array) -> jax.Array:
        """Return the log density up to a constant, ()."""
        return self.law.log_density(v) - self.problem.misfit(v)
