"""Whole ensembles of particles as reconstructions, for samples by the thousand."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior
from diffctl.operators import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.monte_carlo.particles import Particles, WholeEnsemble
from diffctl.solvers.monte_carlo.resampling import ancestors
from diffctl.solvers.requirements import check_inputs


@pytree_dataclass
class EqualWeights(WholeEnsemble):
    """A particle solver that returns its ensemble, resampled to equal weights.

    The reconstruction is (num_draws, *shape): systematic draws from the particles that
    `particles` returns for the same key, where `solve` returns a single one. Draws of
    one ensemble depend on each other, and repeat heavy particles.

    Args:
        num_draws: from each ensemble.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)
    cost_formula: ClassVar[str] = "that of the solver"
    reference: ClassVar[str] = "that of the solver"

    num_draws: int = static()

    def check(self, problem: Problem, prior: Any) -> None:
        """Refuse what the solver refuses."""
        check_inputs(problem, prior, self.solver)

    def finalize(self, carry: Particles, problem: Problem, prior: Any) -> jax.Array:
        positions = (jnp.arange(self.num_draws) + carry.pick) / self.num_draws
        return carry.x[ancestors(carry.log_weights, positions)]
