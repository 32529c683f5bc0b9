"""Manifold-constrained gradient: a DPS step, then a projection on the measurement.

With the level sigma' that the step leads to and z ~ N(0, I),

1. x'  DPS step from x
2. x   <- x' + A^+ (y + sigma' A z - A x')

The public code of DPS projects otherwise: at the level `sigma` that the step leaves,
with z of the shape of y, and in coordinates x_vp = x / sqrt(1 + sigma^2), where
y_vp = (y + sigma z) / sqrt(1 + sigma^2),

3. x_vp <- x_vp' + up(y_vp) - up(A x_vp'), up the nearest pixel, for super-resolution
4. x_vp <- (I - A) y_vp - A x_vp', for blurs and masks
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior, Solver, StepTrace
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import LinearOperator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.dps import DPS
from diffctl.solvers.ilvr import nearest_upsampling
from diffctl.solvers.levels import Levels
from diffctl.solvers.requirements import linear
from diffctl.solvers.score_sde import noisy_projection
from diffctl.solvers.tasks import for_task

Projection = Callable[[Problem, jax.Array, Levels, jax.Array], jax.Array]


def exact_projection(
    problem: Problem, x: jax.Array, levels: Levels, key: jax.Array
) -> jax.Array:
    """Return the state of (2), (*shape)."""
    noise = standard_normal(key, x)
    return x + noisy_projection(problem, x, levels[1].sigma, noise)


def released_resizing(
    problem: Problem, x: jax.Array, levels: Levels, key: jax.Array
) -> jax.Array:
    """Return the state of (3), (*shape): y at the wrong level, and no A^+."""
    operator = linear(problem)
    y = _released_measurement(problem, levels, key)
    explained = nearest_upsampling(operator, operator(x))
    return x + nearest_upsampling(operator, y) - explained


def released_filtering(
    problem: Problem, x: jax.Array, levels: Levels, key: jax.Array
) -> jax.Array:
    """Return the state of (4), (*shape), which explains nothing.

    For a mask the unobserved part is noise and the observed part -x'. The measurement
    has the shape of the signal.
    """
    operator = linear(problem)
    y = _released_measurement(problem, levels, key)
    return y - operator(y) - operator(x)


def _released_measurement(
    problem: Problem, levels: Levels, key: jax.Array
) -> jax.Array:
    """Return y_vp of the level that is left, in units of a state at the next level."""
    now, next = levels
    noisy = problem.y + now.sigma * standard_normal(key, problem.y)
    return jnp.sqrt((1 + next.sigma**2) / (1 + now.sigma**2)) * noisy


_RELEASED_PROJECTIONS: Mapping[str, Projection] = {
    "super_resolution_x4": released_resizing,
    "random_inpainting": released_filtering,
    "box_inpainting": released_filtering,
    "gaussian_deblurring": released_filtering,
    "motion_deblurring": released_filtering,
}


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
    projects on something else for blurs and masks, which its numbers show: that is
    `MCG.released_code`.

    Args:
        guided: the gradient step with its grid and settings.
        projection: `(problem, x', (now, next), key) -> x`.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)
    cost_formula: ClassVar[str] = "T fwd + T VJP"
    reference: ClassVar[str] = (
        "Chung et al., Improving Diffusion Models for Inverse Problems using Manifold "
        "Constraints, NeurIPS 2022"
    )

    guided: DPS
    projection: Projection = static(default=exact_projection)

    @classmethod
    def dps_paper(cls, task: str, *, num_steps: int = 1000) -> "MCG":
        """Return the settings of the paper on DPS: its step sizes, for linear tasks."""
        for_task(_RELEASED_PROJECTIONS, task)
        return cls(guided=DPS.paper(task, num_steps=num_steps))

    @classmethod
    def released_code(cls, task: str, *, num_steps: int = 1000) -> "MCG":
        """Return what the public code of DPS runs as MCG, wrong projection included.

        Sound for super-resolution only; its results for other tasks are not those of
        the method.
        """
        return cls(
            projection=for_task(_RELEASED_PROJECTIONS, task),
            guided=DPS.released_code(task, num_steps=num_steps),
        )

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
        return self.projection(problem, proposal, (now, next), data_key), trace

    def finalize(
        self, carry: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return carry
