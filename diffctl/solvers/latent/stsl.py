"""Second-order Tweedie with a surrogate loss, reconstructed from descriptions.

With the score s of the latent at level sigma and H its Jacobian, the covariance is
Cov[z0 | z] = sigma^2 (I + sigma^2 H), and by Jensen's inequality, for Gaussian noise,

1. -log p(y | z) <= |y - A(D(z0_hat))|^2 / (2 sigma_y^2) + gain Tr Cov[z0 | z] + const

   to second order in z0 - z0_hat, `gain` bounding the squared norm of A(D(.)) over
   2 sigma_y^2. Only Tr H depends on z in the second term, and is estimated by
2. T(z) = eps^T (s(z + h eps) - s(z)) / h,   eps ~ N(0, I),  h = c sqrt(1 + sigma^2)

Each step descends K times, then takes a reverse step:
3. z <- z - (1 + sigma^2) grad_z (penalty(z0_hat(z)) + trace_scale sigma^4 T(z))
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior, LatentPrior, StepTrace
from diffctl.diffusion import NoiseGrid, NoiseLevel, score_from_x0
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.costs import squared_residual
from diffctl.solvers.dps import variance_preserving_unit
from diffctl.solvers.latent.base import LatentSolver
from diffctl.solvers.latent.guided import LDPS, GuidedLatent
from diffctl.solvers.requirements import check_inner


def score_trace(
    prior: DiffusionPrior,
    z: jax.Array,
    x0_hat: jax.Array,
    sigma: jax.Array,
    probe: jax.Array,
) -> jax.Array:
    """Return probe^T (s(z + probe) - s(z)), (), by (2) an estimate of h^2 Tr H.

    One network call, besides that for `x0_hat` = denoise(z, sigma). For a score that is
    affine it is probe^T H probe exactly, whatever the size of the probe.
    """
    moved = z + probe
    change = score_from_x0(prior.denoise(moved, sigma), moved, sigma)
    change -= score_from_x0(x0_hat, z, sigma)
    return jnp.vdot(probe, change, precision=jax.lax.Precision.HIGHEST)


@pytree_dataclass
class STSL(LatentSolver):
    """Second-order Tweedie sampler from surrogate loss (Rout et al., CVPR 2024).

        repeat K times:  z <- z - (1 + sigma^2) grad_z (penalty + trace_scale sigma^4 T)
        z <- reverse step at z

    with the penalty of `guided` and T of equation (2). Reconstructed: no code of the
    authors is public, and neither weights nor sign of the trace could be checked.
    Equation (1) gives both: the trace is descended, with `trace_scale` equal to the
    squared gain of A(D(.)) times the weight of the squared residual.

    Requirements: those of `guided`.

    Cost: T (2 K + 1) forwards and 2 T K VJPs of the latent network for T levels and K
    repetitions, 1 + K calls and K VJPs of the decoder a step, and an encoder's where
    `guided` has one.

    Args:
        guided: grid, reverse step and penalty; its `unit` is not used. With the squared
            residual of `default`, its scale goes with the unit of 1 / y^2.
        trace_scale: (), weight of the covariance; 0 is the first-order method.
        probe_scale: (), size c of the probes in variance-preserving coordinates; 1 is
            the published form, and small ones give the exact derivative.
        num_repeats: K >= 1, gradient steps before a reverse step.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, LatentPrior)
    cost_formula: ClassVar[str] = (
        "T (2 K + 1) fwd + 2 T K VJP (K repeats; K T of the decoder)"
    )
    reference: ClassVar[str] = (
        "Rout et al., Beyond First-Order Tweedie: Solving Inverse Problems using "
        "Latent Diffusion, CVPR 2024"
    )

    guided: GuidedLatent
    trace_scale: Any = 0.02
    probe_scale: Any = 1.0
    num_repeats: int = static(default=1)

    @classmethod
    def default(cls, grid: NoiseGrid) -> "STSL":
        """Return the squared residual with steps of 0.02."""
        guided = LDPS(grid=grid, cost=squared_residual, guidance_scale=0.02)
        return cls(guided=guided)

    def check(self, problem: Problem, prior: LatentPrior) -> None:
        """Refuse what the guided solver refuses."""
        check_inner(problem, prior, self.guided)

    def init(
        self, key: jax.Array, problem: Problem, prior: LatentPrior
    ) -> tuple[Any, Any]:
        return self.guided.init(key, problem, prior)

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: LatentPrior
    ) -> tuple[jax.Array, StepTrace]:
        now, next, key = x
        noise_key, repeats_key = jax.random.split(key)

        def descend(z: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            gradient = jax.grad(self.surrogate)(z, now, key, problem, prior)
            return z - self._unit(now) * gradient, None

        keys = jax.random.split(repeats_key, self.num_repeats)
        z, _ = jax.lax.scan(descend, carry, keys)
        reverse = self.guided.reverse
        estimate = reverse.estimate(prior.latent, z, now)
        moved = reverse.advance(
            z, estimate, now, next, standard_normal(noise_key, carry)
        )
        calls = Calls(fwd=2 * self.num_repeats + 1, vjp=2 * self.num_repeats)
        misfit = problem.misfit(prior.decode(estimate.x0_hat))
        return moved, StepTrace(misfit=misfit, calls=calls)

    def surrogate(
        self,
        z: jax.Array,
        now: NoiseLevel,
        key: jax.Array,
        problem: Problem,
        prior: LatentPrior,
    ) -> jax.Array:
        """Return what (3) descends, (), with one random probe."""
        probe_key, penalty_key = jax.random.split(key)
        x0_hat = self.guided.reverse.estimate(prior.latent, z, now).x0_hat
        pair = (x0_hat, prior.decode(x0_hat))
        first_order = self.guided.penalty(problem, prior, pair, penalty_key)
        size = self.probe_scale * jnp.sqrt(self._unit(now))
        probe = size * standard_normal(probe_key, z)
        curvature = score_trace(prior.latent, z, x0_hat, now.sigma, probe) / size**2
        return first_order + self.trace_scale * now.sigma**4 * curvature

    def _unit(self, now: NoiseLevel) -> jax.Array:
        """Return 1 + sigma^2: both ends of the step are at the same level."""
        return variance_preserving_unit(self.guided.reverse, now, now)
