"""Markov chains on posteriors whose noise is lowered level by level.

With sigma a level of the grid, c = 1, and p_sigma the density of noisy signals:

1. target      pi(x) = p_sigma(x) N(y; A x, s_y^2 I + c sigma^2 A A^T)
2. last sweeps the same at the lowest level, with c = 0
3. whitening   x = L u,  L^{-2} = A^T (s_y^2 I + c sigma^2 A A^T)^{-1} A + I / sigma^2
4. sweeps      K Metropolis-adjusted steps for the density of u, at each level

(3) bounds the curvature of a log-concave target by 1, so that step sizes of order 1 are
right at every level and for every operator.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior, NoisyDensityPrior, StepTrace
from diffctl.diffusion import NoiseLevel, geometric
from diffctl.numerics.langevin import Point, run_chain
from diffctl.numerics.safe import safe_divide
from diffctl.operators.base import Problem, SpectralOperator, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.kernels import MALA, Kernel
from diffctl.solvers.levels import LevelSolver
from diffctl.solvers.monte_carlo.twists import spectral_log_likelihood
from diffctl.solvers.requirements import spectral
from diffctl.solvers.spectral import SpectralData


@pytree_dataclass
class Chain:
    """The state of a chain."""

    x: jax.Array  # (*shape)
    log_density: jax.Array  # () log pi(x) at the level of the last sweep


@pytree_dataclass
class Whitening:
    """L of (3): diag(scales) in the measured directions, sigma in the others."""

    operator: SpectralOperator
    scales: jax.Array  # (k,)
    sigma: jax.Array  # ()

    @classmethod
    def of(cls, problem: Problem, sigma: jax.Array, variance: jax.Array) -> "Whitening":
        data = SpectralData.of(problem)
        precision = jnp.where(data.measured, safe_divide(1, data.std**2 + variance), 0)
        scales = 1 / jnp.sqrt(precision + 1 / sigma**2)
        return cls(operator=spectral(problem), scales=scales, sigma=sigma)

    def colour(self, u: jax.Array) -> jax.Array:
        """Return L u."""
        return self._scaled(u, self.sigma, self.scales)

    def whiten(self, x: jax.Array) -> jax.Array:
        """Return L^{-1} x."""
        return self._scaled(x, 1 / self.sigma, 1 / self.scales)

    def _scaled(self, x: jax.Array, outside: jax.Array, scales: jax.Array) -> jax.Array:
        change = (scales - outside) * self.operator.v_adjoint(x)
        return outside * x + self.operator.v(change)


@pytree_dataclass
class AnnealedMCMC(LevelSolver):
    """MALA or HMC on annealed posteriors, down to the lowest level of the grid.

    The result is a sample of p(x_sigma | y) at the lowest level, with the noise sigma
    of that level still in it.

    Requirements: a prior with a density at every level (an energy, a Gaussian, a
    mixture), since acceptance needs it: a denoiser alone has none. A spectral operator
    and white noise.

    Cost: (E K + 1) forwards and VJPs a level, T + `num_last` levels; E = 1 for MALA and
    the number of leapfrogs for HMC.

    The chain at each level leaves (1) invariant at any step size; what annealing adds
    is the way between modes. Between levels the chain lags behind: the error vanishes
    as the levels and the steps K grow, not at a fixed number.

    Args:
        grid: noise levels, T of them.
        kernel: MALA or HMC.
        num_sweeps: K, steps at each level.
        num_last: repetitions of the lowest level, with the plain likelihood.
        inflation: c of (1), (); 1 is p(y | x_sigma) under a flat prior.
    """

    requires: ClassVar[tuple[type, type]] = (SpectralOperator, NoisyDensityPrior)
    requires_noise: ClassVar[type] = WhiteNoise
    cost_formula: ClassVar[str] = (
        "(E K + 1) (T + last) fwd + as many VJP (K steps a level, E gradients each)"
    )
    reference: ClassVar[str] = (
        "Roberts & Tweedie, Exponential convergence of Langevin distributions, "
        "Bernoulli 1996; Neal, Annealed importance sampling, 2001"
    )

    kernel: Kernel = MALA(step_size=0.3)
    num_sweeps: int = static(default=10)
    num_last: int = static(default=5)
    inflation: Any = 1.0

    @classmethod
    def default(cls, *, num_steps: int = 50) -> "AnnealedMCMC":
        """Return settings for data in [-1, 1]: levels from 100 to 0.02."""
        return cls(grid=geometric(num_steps, sigma_min=0.02, sigma_max=100.0))

    def levels(self) -> tuple[NoiseLevel, ...]:
        """Return the levels of the prior, and those that inflate the likelihood."""
        now, next = self.grid.pairs()

        def extended(levels: NoiseLevel, last: NoiseLevel) -> NoiseLevel:
            return jax.tree.map(
                lambda leaf, end: jnp.append(leaf, jnp.repeat(end[-1:], self.num_last)),
                levels,
                last,
            )

        return extended(now, now), extended(now, next)

    def step(
        self, carry: Chain, x: Any, problem: Problem, prior: NoisyDensityPrior
    ) -> tuple[Chain, StepTrace]:
        level, inflating, key = x
        variance = self.inflation * inflating.sigma**2
        whitening = Whitening.of(problem, level.sigma, variance)

        def log_density(u: jax.Array) -> jax.Array:
            x = whitening.colour(u)
            likelihood = spectral_log_likelihood(problem, x, variance)
            return prior.log_density(x, level.sigma) + likelihood

        def kernel(key: jax.Array, point: Point) -> Point:
            return self.kernel(key, point, log_density)

        first = Point.with_score(whitening.whiten(carry.x), log_density)
        last = run_chain(key, kernel, first, self.num_sweeps)
        moved = Chain(x=whitening.colour(last.x), log_density=last.log_density)
        evaluations = 1 + self.num_sweeps * self.kernel.num_gradients
        trace = StepTrace(
            misfit=problem.misfit(moved.x),
            calls=Calls(fwd=evaluations, vjp=evaluations),
            extra=last.num_accepted / self.num_sweeps,
        )
        return moved, trace

    def init(  # type: ignore[override]
        self, key: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> tuple[Chain, Any]:
        x, xs = super().init(key, problem, prior)
        return Chain(x=x, log_density=jnp.zeros((), x.dtype)), xs

    def finalize(  # type: ignore[override]
        self, carry: Chain, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return carry.x
