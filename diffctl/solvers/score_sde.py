"""Projection on the noisy measurement: Score-SDE's inpainting, for linear operators.

After every reverse step x -> x' to the level sigma', the measured part of x' is moved
to the measurement at the same noise level, y' = y + sigma' A z:

    x <- x' + relaxation * A^+ (y' - A x')
"""

import abc
from typing import Any, ClassVar

import jax

from diffctl.core import Calls, DiffusionPrior, StepTrace
from diffctl.diffusion import Ancestral, OneCallStep
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import LinearOperator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.data_steps import towards_data
from diffctl.solvers.levels import LevelSolver


def noisy_projection(
    problem: Problem, x: jax.Array, sigma: jax.Array, noise: jax.Array
) -> jax.Array:
    """Return A^+ (y + sigma A z - A x), the way to the measurement at level `sigma`.

    The noise z is that of a signal, (*shape), so that y + sigma A z is distributed as
    the measurement of a signal at that level.
    """
    return towards_data(problem, x - sigma * noise)


@pytree_dataclass
class ReplacementSolver(LevelSolver):
    """Unconditional reverse steps, each followed by a change towards noisy data.

    Args:
        grid: noise levels, T steps.
        reverse: one-call reverse step.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)
    cost_formula: ClassVar[str] = "T fwd"

    reverse: OneCallStep = Ancestral()

    @abc.abstractmethod
    def change(
        self, problem: Problem, x: jax.Array, sigma: jax.Array, noise: jax.Array
    ) -> jax.Array:
        """Return what is added to `x`, a state at level `sigma`, given fresh noise."""

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, StepTrace]:
        state, (now, next, key) = carry, x
        reverse_key, data_key = jax.random.split(key)
        estimate = self.reverse.estimate(prior, state, now)
        noise = standard_normal(reverse_key, state)
        proposal = self.reverse.advance(state, estimate, now, next, noise)
        data_noise = standard_normal(data_key, state)
        change = self.change(problem, proposal, next.sigma, data_noise)
        trace = StepTrace(misfit=problem.misfit(estimate.x0_hat), calls=Calls(fwd=1))
        return proposal + change, trace


@pytree_dataclass
class ScoreSDE(ReplacementSolver):
    """Conditional sampling by projection (Song et al., ICLR 2021, section 5).

        x <- x' + relaxation * A^+ (y + sigma' A z - A x')

    Requirements: a linear operator, whose pseudo-inverse is used, and (nearly)
    noise-free measurements: the result explains y exactly, noise included, which A^+
    amplifies (`Truncated` bounds by how much).

    Cost: T forwards for T levels of `grid`; no derivative of the network.

    Deviations: no Langevin corrector between the levels, after which the authors' code
    projects as well.

    Not a posterior sampler: the projection never tells the unmeasured part what was
    measured, except through the next call of the denoiser.

    Args:
        grid: noise levels, T steps.
        reverse: one-call reverse step, the predictor of the paper's 1000 levels.
        relaxation: (), share of the projection that is made; 1 is the hard one.
    """

    reference: ClassVar[str] = (
        "Song et al., Score-Based Generative Modeling through Stochastic Differential "
        "Equations, ICLR 2021"
    )

    relaxation: Any = 1.0

    def change(
        self, problem: Problem, x: jax.Array, sigma: jax.Array, noise: jax.Array
    ) -> jax.Array:
        return self.relaxation * noisy_projection(problem, x, sigma, noise)
