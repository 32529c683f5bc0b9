"""Twisted Diffusion Sampler: particles guided by the likelihood of their estimates.

At level sigma with D = D(x), the reverse step K = N(m, q^2 I), its guidance coefficient
c = s^2 * on_x0 and a twist log g(x) = twist(D(x)):

1. look      h = g(x),  G = grad_x log g(x): one VJP
2. proposal  x' = m + c G + q z, which is K with the score replaced by score + G
3. correction  K(x'|x) / proposal(x'|x) / g(x)
                 = exp(-<d, z> - |d|^2 / 2) / g(x),  d = c G / q
4. last step  x0 = D, without noise: correction p(y | x0) / g(x)
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior
from diffctl.diffusion import AncestralLearned, Estimate, ddpm
from diffctl.numerics.safe import safe_divide
from diffctl.operators.base import Operator, Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.monte_carlo.particles import Outlook, ParticleSolver
from diffctl.solvers.monte_carlo.resampling import ResampleAlways, systematic
from diffctl.solvers.monte_carlo.twists import IsotropicTwist, Twist


@pytree_dataclass
class TDS(ParticleSolver):
    """Twisted Diffusion Sampler (Wu et al., NeurIPS 2023).

        x' = reverse step + guidance_scale * c grad log g(x),  weighted particles

    Requirements: any differentiable operator and any noise model that the twist can
    evaluate; the default twist wants white noise, `PlainTwist` any.

    Cost: N T forwards and N T VJPs for N particles and T levels; memory of N VJPs, or
    of `chunk_size` of them.

    Exact for the discretised model as N grows, whatever twist and guidance; see
    `particles`. The weights degenerate exponentially in the number of measurements: for
    images and a few particles it is a guided sampler with a choice among N.

    Deviations: resampling where the effective sample size is below N / 2 (the public
    code: at every step); the last step carries the true likelihood, also of noisy
    measurements (blt2114/twisted_diffusion_sampler treats inpainting as noise-free and
    the twist's variance lacks s_y^2). The rule of that code that normalises the
    residual is not offered: its variance differs between particles.

    Args: see `ParticleSolver`, and
        twist: log g as a function of the clean estimate.
        guidance_scale: (), 1 guides the proposal fully; 0 keeps the model's own.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)
    cost_formula: ClassVar[str] = "N T fwd + N T VJP"
    reference: ClassVar[str] = (
        "Wu et al., Practical and Asymptotically Exact Conditional Sampling in "
        "Diffusion Models, NeurIPS 2023"
    )

    twist: Twist = IsotropicTwist()
    guidance_scale: Any = 1.0

    @classmethod
    def default(cls, *, num_steps: int = 100, num_particles: int = 16) -> "TDS":
        """Return settings for images in [-1, 1] on exact DDPM levels."""
        return cls(grid=ddpm(num_steps), num_particles=num_particles)

    @classmethod
    def released_code(cls, *, num_steps: int = 100, num_particles: int = 4) -> "TDS":
        """Return the released settings: learned variance, resampling at every step."""
        return cls(
            grid=ddpm(num_steps),
            num_particles=num_particles,
            reverse=AncestralLearned(),
            resampling=ResampleAlways(scheme=systematic),
        )

    @property
    def calls_of_a_look(self) -> Calls:
        return Calls(fwd=1, vjp=1)

    def check(self, problem: Problem, prior: DiffusionPrior) -> None:
        self.twist.check(problem)
        super().check(problem, prior)

    def look(
        self, x: jax.Array, at: Any, problem: Problem, prior: DiffusionPrior
    ) -> Outlook:
        now, _ = at

        def log_twist(x: jax.Array) -> tuple[jax.Array, Estimate]:
            estimate = self.reverse.estimate(prior, x, now)
            return self.twist(problem, estimate.x0_hat, now.sigma), estimate

        (value, estimate), gradient = jax.value_and_grad(log_twist, has_aux=True)(x)
        return Outlook(estimate=estimate, log_weight=value, aside=gradient)

    def move(
        self, x: jax.Array, outlook: Outlook, at: Any, problem: Problem, z: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        now, next = at
        clean = next.sigma == 0
        coefficient = self.guidance_scale * self.reverse.guidance_coefficient(now, next)
        shift = jnp.where(clean, 0, coefficient * outlook.aside)
        drift = safe_divide(shift, self.reverse.noise_std(outlook.estimate, now, next))
        moved = self.reverse.advance(x, outlook.estimate, now, next, z) + shift
        log_ratio = -jnp.sum(drift * z + drift**2 / 2)
        likelihood = jnp.where(clean, -problem.misfit(moved), 0)
        return moved, log_ratio + likelihood - outlook.log_weight
