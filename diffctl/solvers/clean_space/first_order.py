"""DiffPIR for any operator: one gradient step in place of the proximal map.

With the estimate D, its variance r^2 and the misfit l(u) = -log p(y | A(u)),

    u = D - grad l(D) / (strength / r^2 + h),    h the largest curvature of l at D
"""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior
from diffctl.diffusion import NoiseLevel
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.clean_space.curvature import (
    Curvature,
    NoCurvature,
    PowerIteration,
)
from diffctl.solvers.clean_space.diffpir import (
    HalfQuadraticSplitting,
    NoisyState,
    inverse_bench_fields,
    quadratic_grid,
)
from diffctl.solvers.clean_space.penalties import BayesianPenalty
from diffctl.solvers.tasks import for_task

# Strength and zeta.
_RELEASED: Mapping[str, tuple[float, float]] = {
    "gaussian_deblurring": (7.0, 0.28),
    "motion_deblurring": (7.0, 0.28),
    "super_resolution_x4": (15 / 4, 0.25),
    "super_resolution_x4_imagenet": (35 / 4, 0.35),
}


@pytree_dataclass
class FirstOrderDiffPIR(HalfQuadraticSplitting):
    """DiffPIR for any operator and noise: one gradient step in place of (1).

        u = D - grad l(D) / (strength / r^2 + h),   l(u) = -log p(y | A(u))

    h, the largest curvature of l at D, is estimated by power iteration.

    Requirements: a differentiable operator, any noise model.

    Cost: T forwards for T levels of `grid`; per step one VJP of the operator, and those
    of `curvature` (by default three JVPs and three VJPs).

    Deviations: the paper and public codes have h = 0 (`NoCurvature`), with which the
    step diverges wherever the data are much more precise than the estimate (r / s_y
    large). `released_code_without_curvature` and `inverse_bench_without_curvature` do
    the same.

    Args: see `HalfQuadraticSplitting`, and
        curvature: h.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)

    curvature: Curvature = PowerIteration()

    @classmethod
    def released_code_without_curvature(cls, task: str) -> "FirstOrderDiffPIR":
        """Return the authors' first-order settings. They diverge for precise data.

        With their s_y = 0.1 the first deblurring step is 3.5e5 times as long as the
        way to the data. The code for super-resolution compares residuals on [-1, 1] to
        noise on [0, 1], so that its lambda is a fourth here; that for deblurring
        differentiates residuals on [0, 1] by images on [-1, 1], and lambda is the same.
        """
        strength, zeta = for_task(_RELEASED, task)
        return cls(
            grid=quadratic_grid(100),
            penalty=BayesianPenalty(strength=strength, signal_std=jnp.inf),
            zeta=zeta,
            ending=NoisyState(),
            curvature=NoCurvature(),
        )

    @classmethod
    def inverse_bench_without_curvature(
        cls, *, num_steps: int = 1000
    ) -> "FirstOrderDiffPIR":
        """Return the settings of devzhk/InverseBench. They diverge for precise data."""
        return cls(curvature=NoCurvature(), **inverse_bench_fields(8.0, num_steps))

    def correct(
        self, key: jax.Array, problem: Problem, x0_hat: jax.Array, now: NoiseLevel
    ) -> jax.Array:
        curvature = self.curvature(key, problem, x0_hat)
        precision = self.penalty(now.sigma, 1.0) + curvature
        return x0_hat - jax.grad(problem.misfit)(x0_hat) / precision
