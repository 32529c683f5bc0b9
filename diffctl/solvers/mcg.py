"""Manifold-constrained gradient: a DPS step, then a projection on the measurement.

With the level sigma' that the step leads to and z ~ N(0, I),

1. x'  DPS step from x
2. x   <- x' + A^+ (y + sigma' A z - A x')
"""

from typing import Any, ClassVar

import jax

from diffctl.core import DiffusionPrior, Solver, StepTrace
from diffctl.operators.base import LinearOperator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.dps import DPS
from diffctl.solvers.levels import standard_normal
from diffctl.solvers.score_sde import noisy_projection


@pytree_dataclass
class MCG(Solver):
    """Manifold-constrained gradients (Chung et al., NeurIPS 2022).

        x' = reverse step at x - guidance_scale * unit * grad_x |y - A D(x)|
        x  <- x' + A^+ (y + sigma' A z - A x')

    Requirements: a linear operator, whose pseudo-inverse is used, and (nearly)
    noise-free measurements: the result explains y exactly, and A^+ amplifies noise
    (`Truncated` bounds by how much).

    Cost: T forwards and T VJPs for T levels of the grid.

    Deviations: the noise of the projection is pushed through A and belongs to the level
    that the step leads to, as the paper has it. The public code
    (DPS2022/diffusion-posterior-sampling) adds it to y at the level before, and
    projects on something else for blurs and masks, which its numbers show.

    Args:
        guided: the gradient step with its grid and settings.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)
    cost_formula: ClassVar[str] = "T fwd + T VJP"
    reference: ClassVar[str] = (
        "Chung et al., Improving Diffusion Models for Inverse Problems using Manifold "
        "Constraints, NeurIPS 2022"
    )

    guided: DPS

    @classmethod
    def dps_paper(cls, task: str, *, num_steps: int = 1000) -> "MCG":
        """Return the settings of the paper on DPS: the same step sizes as for DPS."""
        return cls(guided=DPS.paper(task, num_steps=num_steps))

    def init(
        self, key: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, Any]:
        return self.guided.init(key, problem, prior)

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, StepTrace]:
        now, next, key = x
        gradient_key, data_key = jax.random.split(key)
        at = (now, next, gradient_key)
        proposal, trace = self.guided.step(carry, at, problem, prior)
        noise = standard_normal(data_key, proposal)
        return proposal + noisy_projection(problem, proposal, next.sigma, noise), trace

    def finalize(
        self, carry: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return carry
