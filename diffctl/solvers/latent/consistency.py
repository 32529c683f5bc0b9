"""Zero-shot restoration with a consistency model: denoise, correct, noise again.

At levels sigma_0 > sigma_1 > ... and with the consistency function f,

1. x0 = f(x, sigma)
2. x0 <- x0 + correction, which brings it to the measurement
3. x  <- x0 + sqrt(sigma'^2 - sigma_min^2) z
"""

import abc
from typing import Any, ClassVar

import jax

from diffctl.core import Calls, ConsistencyPrior, StepTrace
from diffctl.diffusion.consistency import renoise
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import LinearOperator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.data_steps import towards_data, towards_noisy_data
from diffctl.solvers.levels import LevelSolver
from diffctl.solvers.requirements import noise_std


class DataStep(abc.ABC):
    """What is done to a clean estimate, given the measurement."""

    @abc.abstractmethod
    def __call__(
        self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        """Return the corrected estimate, (*shape), at level `sigma` ()."""


@pytree_dataclass
class ProjectionStep(DataStep):
    """x0 + A^+ (y - A x0): the measured part is replaced; for noise-free data."""

    def __call__(
        self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        return x0_hat + towards_data(problem, x0_hat)


@pytree_dataclass
class ProximalStep(DataStep):
    """argmin_x |y - A x|^2 / (2 sigma_y^2) + weight |x - x0|^2 / (2 sigma^2).

    For noisy data, as in DiffPIR; needs a noise model with a standard deviation.
    """

    weight: Any = 1.0  # ()

    def __call__(
        self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        damping = self.weight * (noise_std(problem) / sigma) ** 2
        return x0_hat + towards_noisy_data(problem, x0_hat, damping)


@pytree_dataclass
class ConsistencyRestoration(LevelSolver):
    """Zero-shot editing with consistency models (Song et al., ICML 2023).

        x0 = data_step(f(x, sigma));   x <- x0 + sqrt(sigma'^2 - sigma_min^2) z

    Requirements: a linear operator, whose pseudo-inverse is used, and (nearly)
    noise-free measurements; `data_step=ProximalStep()` for noisy ones.

    Cost: T forwards for T levels of `grid`; no derivative of the network.

    Deviations: the published demonstrations (inpainting, super-resolution by patch
    averages, colourisation) replace coordinates of an orthonormal basis, which is the
    projection for their operators. They never leave the last estimate uncorrected, nor
    does this.

    Args:
        grid: noise levels, T steps; see `diffusion.karras_levels`.
        data_step: how an estimate is brought to the measurement.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, ConsistencyPrior)
    cost_formula: ClassVar[str] = "T fwd"
    reference: ClassVar[str] = "Song et al., Consistency Models, ICML 2023"

    data_step: DataStep = ProjectionStep()

    def start(self, noise: jax.Array, problem: Problem, prior: Any) -> jax.Array:
        return self.grid.sigma[0] * noise

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: Any
    ) -> tuple[jax.Array, StepTrace]:
        now, next, key = x
        x0_hat = prior.jump(carry, now.sigma)
        corrected = self.data_step(problem, x0_hat, now.sigma)
        noise = standard_normal(key, carry)
        trace = StepTrace(misfit=problem.misfit(x0_hat), calls=Calls(fwd=1))
        return renoise(prior, corrected, next.sigma, noise), trace
