"""Whole ensembles of particles as reconstructions, for samples by the thousand."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior, Solver, StepTrace
from diffctl.operators import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.monte_carlo.particles import Particles, ParticleSolver
from diffctl.solvers.monte_carlo.resampling import ancestors
from diffctl.solvers.requirements import check_inputs


@pytree_dataclass
class EqualWeights(Solver):
    """A particle solver that returns its ensemble, resampled to equal weights.

    The reconstruction is (num_draws, *shape): systematic draws from the particles that
    `particles` returns for the same key, where `solve` returns a single one. Draws of
    one ensemble depend on each other, and repeat heavy particles.

    Args:
        solver: that is run.
        num_draws: from each ensemble.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)
    cost_formula: ClassVar[str] = "that of the solver"
    reference: ClassVar[str] = "that of the solver"

    solver: ParticleSolver
    num_draws: int = static()

    def check(self, problem: Problem, prior: Any) -> None:
        """Refuse what the solver refuses."""
        check_inputs(problem, prior, self.solver)

    def init(self, key: jax.Array, problem: Problem, prior: Any) -> tuple[Any, Any]:
        return self.solver.init(key, problem, prior)

    def step(
        self, carry: Particles, x: Any, problem: Problem, prior: Any
    ) -> tuple[Particles, StepTrace]:
        return self.solver.step(carry, x, problem, prior)

    def finalize(self, carry: Particles, problem: Problem, prior: Any) -> jax.Array:
        positions = (jnp.arange(self.num_draws) + carry.pick) / self.num_draws
        return carry.x[ancestors(carry.log_weights, positions)]
