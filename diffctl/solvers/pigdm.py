"""Pseudoinverse-guided diffusion: the posterior of x0 taken for an isotropic Gaussian.

At level sigma with the estimate D = D(x), J = dD/dx and a signal of standard deviation
sigma_d, p(x0 | x) is taken for N(D, r^2 I):

1. r^2 = sigma^2 sigma_d^2 / (sigma^2 + sigma_d^2)
2. pull, the residual brought back to the signal,
   noisy        v = A^T (A A^T + (sigma_y / r)^2 I)^{-1} (y - A D)
   noise-free   v = A^+ (y - A D)
   non-linear   v = h^+(y) - h^+(h(D))
3. likelihood score  G = J^T v / r^2, v held fixed: one VJP
4. x <- reverse step + guidance_scale * weight * J^T v
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from diffctl.core import Calls, DiffusionPrior, StepTrace
from diffctl.diffusion import (
    DDIM,
    VP,
    NoiseLevel,
    OneCallStep,
    Renoise,
    ddpm,
    geometric,
)
from diffctl.numerics.normal import standard_normal
from diffctl.operators.base import LinearOperator, Operator, Problem, WhiteNoise
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.conjugate import few_steps
from diffctl.solvers.data_steps import towards_data, towards_noisy_data
from diffctl.solvers.levels import LevelSolver, estimate_with_pullback
from diffctl.solvers.requirements import linear, noise_std

Weight = Callable[[OneCallStep, NoiseLevel, NoiseLevel, jax.Array], jax.Array]
NonlinearInverse = Callable[[Operator, Any], jax.Array]


def estimate_variance(sigma: jax.Array, signal_std: Any) -> jax.Array:
    """Return r^2 = Var[x0 | x] of an isotropic Gaussian signal, ().

    `signal_std` may be infinite: sigma^2, the variance without any prior.
    """
    return sigma**2 / (1 + (sigma / signal_std) ** 2)


def exact_weight(
    reverse: OneCallStep, now: NoiseLevel, next: NoiseLevel, variance: jax.Array
) -> jax.Array:
    """Return the weight with which the step would use the posterior score."""
    return reverse.guidance_coefficient(now, next) / variance


def paper_weight(
    reverse: OneCallStep, now: NoiseLevel, next: NoiseLevel, variance: jax.Array
) -> jax.Array:
    """Return the paper's weight, which is sqrt(alphas_cumprod) in its coordinates."""
    return jnp.sqrt(1 + next.sigma**2)


def red_diff_weight(
    reverse: OneCallStep, now: NoiseLevel, next: NoiseLevel, variance: jax.Array
) -> jax.Array:
    """Return 1, the weight of NVlabs/RED-diff by default and of devzhk/InverseBench."""
    return jnp.ones_like(now.sigma)


def red_diff_weight_without_awd(
    reverse: OneCallStep, now: NoiseLevel, next: NoiseLevel, variance: jax.Array
) -> jax.Array:
    """Return the weight of NVlabs/RED-diff with its `awd` off.

    It is alphas_cumprod times the exact weight for signals of unit variance: too small.
    """
    return reverse.guidance_coefficient(now, next) / now.sigma**2


def continuous_weight(
    reverse: OneCallStep, now: NoiseLevel, next: NoiseLevel, variance: jax.Array
) -> jax.Array:
    """Return the weight of the PiGDM that mandt-lab/c-pigdm compares itself with.

    An Euler step in VP time of the flow with the likelihood score times r^2, in its
    coordinates beta (t - t') / 2. The grid needs times of the schedule `VP()`.
    """
    step = VP().diffusion_squared(now.time) * (now.time - next.time)
    return step / 2 * (1 + now.sigma**2)


@pytree_dataclass
class PseudoinverseGuidance(LevelSolver):
    """Reverse steps with the pulled-back residual; subclasses say which residual.

    Args:
        grid: noise levels, T steps.
        reverse: one-call reverse step; its `bound` is inside the gradient.
        guidance_scale: (), 0 samples unconditionally.
        signal_std: sigma_d of (1), (); 1 is the published choice.
        weight: what J^T v is multiplied by, besides `guidance_scale`.
    """

    cost_formula: ClassVar[str] = "T fwd + T VJP"
    reference: ClassVar[str] = (
        "Song et al., Pseudoinverse-Guided Diffusion Models for Inverse Problems, "
        "ICLR 2023"
    )

    reverse: OneCallStep = DDIM(eta=1.0)
    guidance_scale: Any = 1.0
    signal_std: Any = 1.0
    weight: Weight = static(default=exact_weight)

    @classmethod
    def paper(cls, *, num_steps: int = 100, **fields: Any) -> Self:
        """Return the paper's weights with eta = 1 on DDPM levels (20 to 100 steps).

        `fields` are those without a default, such as `h_pinv`.
        """
        return cls(grid=ddpm(num_steps), weight=paper_weight, **fields)

    @classmethod
    def red_diff(cls, *, num_steps: int = 100, **fields: Any) -> Self:
        """Return the settings in the configuration of NVlabs/RED-diff: eta = 0.

        Its example scripts have eta = 1; `fields` as for `paper`.
        """
        reverse, weight = DDIM(eta=0.0), red_diff_weight
        return cls(grid=ddpm(num_steps), reverse=reverse, weight=weight, **fields)

    @abc.abstractmethod
    def first_guess(self, problem: Problem) -> jax.Array:
        """Return a signal made of the measurement alone, (*shape)."""

    @abc.abstractmethod
    def pull(
        self, problem: Problem, x0_hat: jax.Array, variance: jax.Array
    ) -> jax.Array:
        """Return v of (2), (*shape)."""

    def start(
        self, noise: jax.Array, problem: Problem, prior: DiffusionPrior
    ) -> jax.Array:
        return self.first_guess(problem) + self.grid.sigma[0] * noise

    def step(
        self, carry: jax.Array, x: Any, problem: Problem, prior: DiffusionPrior
    ) -> tuple[jax.Array, StepTrace]:
        state, (now, next, key) = carry, x
        estimate, pull_back = estimate_with_pullback(self.reverse, prior, state, now)
        variance = estimate_variance(now.sigma, self.signal_std)
        gradient = pull_back(self.pull(problem, estimate.x0_hat, variance))
        noise = standard_normal(key, state)
        proposal = self.reverse.advance(state, estimate, now, next, noise)
        step_size = self.guidance_scale * self.weight(self.reverse, now, next, variance)
        trace = StepTrace(
            misfit=problem.misfit(estimate.x0_hat), calls=Calls(fwd=1, vjp=1)
        )
        return proposal + step_size * gradient, trace


@pytree_dataclass
class PiGDM(PseudoinverseGuidance):
    """Pseudoinverse-guided diffusion for noisy measurements (Song et al., ICLR 2023).

        x <- reverse step + weight J^T A^T (A A^T + (sigma_y / r)^2 I)^{-1} (y - A D)

    Requirements: a linear operator and white noise. In closed form for spectral
    operators; others solve for v by conjugate gradients, 100 products with A^T A a
    step.

    Cost: T forwards and T VJPs for T levels of `grid`; memory of one VJP.

    Deviations: the default weight is the one with which the reverse step would use the
    exact score of the model (for an isotropic Gaussian prior of standard deviation
    sigma_d the result is then the reverse process of the posterior itself). The paper
    has `paper_weight`, public codes `red_diff_weight` (NVlabs/RED-diff with A^+, as in
    `NoiselessPiGDM`, whatever the noise); authors' code is not public.
    NVlabs/RED-diff also overwrites the observed pixels of a mask; this does not. States
    start from A^T (A A^T + (sigma_y / r)^2 I)^{-1} y and not from A^+ y: its noise in
    directions of small singular values stays for eta = 0.

    Args: see `PseudoinverseGuidance`.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)
    requires_noise: ClassVar[type] = WhiteNoise

    @classmethod
    def inverse_bench(cls, *, num_steps: int = 100) -> "PiGDM":
        """Return the settings of devzhk/InverseBench: levels 100 to 0.01, Renoise(0.2).

        Its weight is 1 too, which is not that of a posterior score.
        """
        return cls(
            grid=geometric(num_steps, sigma_min=0.01, sigma_max=100.0),
            reverse=Renoise(eta=0.2),
            weight=red_diff_weight,
        )

    def first_guess(self, problem: Problem) -> jax.Array:
        nothing = jnp.zeros(problem.operator.shape, self.grid.sigma.dtype)
        variance = estimate_variance(self.grid.sigma[0], self.signal_std)
        return self.pull(problem, nothing, variance)

    def pull(
        self, problem: Problem, x0_hat: jax.Array, variance: jax.Array
    ) -> jax.Array:
        damping = noise_std(problem) ** 2 / variance
        return towards_noisy_data(problem, x0_hat, damping)


@pytree_dataclass
class NoiselessPiGDM(PseudoinverseGuidance):
    """Pseudoinverse-guided diffusion for noise-free measurements: `PiGDM` as the noise
    tends to 0.

        x <- reverse step + weight J^T A^+ (y - A D)

    Requirements: a linear operator, whose pseudo-inverse is used (`Truncated` keeps it
    bounded); any noise model, which is not.

    Cost: T forwards and T VJPs for T levels of `grid`; memory of one VJP.

    Args: see `PseudoinverseGuidance`.
    """

    requires: ClassVar[tuple[type, type]] = (LinearOperator, DiffusionPrior)

    @classmethod
    def c_pigdm_baseline(cls, *, num_steps: int = 20) -> "NoiselessPiGDM":
        """Return the PiGDM that mandt-lab/c-pigdm compares itself with.

        With its settings for Gaussian deblurring: the guided flow from VP time 0.4 on,
        guidance 6. The score enters too weakly at every level (`continuous_weight`),
        for which the guidance makes up.
        """
        return cls(
            grid=few_steps(num_steps),
            reverse=DDIM(eta=0.0),
            guidance_scale=6.0,
            weight=continuous_weight,
        )

    def first_guess(self, problem: Problem) -> jax.Array:
        return linear(problem).pinv(problem.y)

    def pull(
        self, problem: Problem, x0_hat: jax.Array, variance: jax.Array
    ) -> jax.Array:
        return towards_data(problem, x0_hat)


@pytree_dataclass
class NonlinearPiGDM(PseudoinverseGuidance):
    """Pseudoinverse-guided diffusion for a non-linear h with h(h^+(h(x))) = h(x).

        x <- reverse step + weight J^T (h^+(y) - h^+(h(D)))

    Requirements: any operator, also one without derivatives (quantisation), and a
    pseudo-inverse `h_pinv` of it. The noise model is not used.

    Cost: T forwards and T VJPs for T levels of `grid`; memory of one VJP.

    Args: see `PseudoinverseGuidance`, and
        h_pinv: `(operator, y) -> signal`, part of the compiled program.
    """

    requires: ClassVar[tuple[type, type]] = (Operator, DiffusionPrior)
    checked: ClassVar[tuple[str, ...]] = ("h_pinv",)

    h_pinv: NonlinearInverse = static()

    def first_guess(self, problem: Problem) -> jax.Array:
        return self.h_pinv(problem.operator, problem.y)

    def pull(
        self, problem: Problem, x0_hat: jax.Array, variance: jax.Array
    ) -> jax.Array:
        explained = self.h_pinv(problem.operator, problem.operator(x0_hat))
        return self.first_guess(problem) - explained
