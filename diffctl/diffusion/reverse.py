"""Reverse steps: from one noise level to the next, given any denoiser.

All in the canonical coordinate x = x0 + sigma * eps. With s the level now, s' the next
one, r = s'/s, D = x0_hat and z ~ N(0, I), a step that calls the denoiser once reads

1. x' = on_x0 * D + on_x * x + std * z

| step                 | on_x               | on_x0    | std                          |
|----------------------|--------------------|----------|------------------------------|
| Euler                | r                  | 1 - on_x | 0                            |
| DDIM(eta)            | sqrt(r^2 - std^2/s^2) | 1 - on_x | eta s' sqrt(1 - r^2)      |
| Ancestral            | r^2                | 1 - on_x | s' sqrt(1 - r^2)             |
| AncestralLarge       | r^2                | 1 - on_x | (scale/scale') sqrt(s^2-s'^2) |
| Renoise(eta)         | r sqrt(1 - eta^2)  | 1 - on_x | eta s'                       |

Every step to the clean level s' = 0 returns D itself, without noise. Integrators of the
ODE and SDE proper are in `integrators.py`.

2. Replacing the score by score + G replaces D by D + s^2 G, so that x' changes by
   exactly guidance_coefficient * G with guidance_coefficient = s^2 * on_x0.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior, LearnedVariancePrior
from diffctl.diffusion.grids import NoiseLevel
from diffctl.numerics.safe import root_of_difference, safe_sqrt
from diffctl.pytree import pytree_dataclass, static

Bound = Callable[[jax.Array], jax.Array]


def unbounded(x0_hat: jax.Array) -> jax.Array:
    """Leave the clean estimate as it is."""
    return x0_hat


def clip(x0_hat: jax.Array) -> jax.Array:
    """Clip the clean estimate to [-1, 1]; saturated entries get no gradient."""
    return jnp.clip(x0_hat, -1, 1)


def clip_straight_through(x0_hat: jax.Array) -> jax.Array:
    """Clip the clean estimate to [-1, 1], with the derivative of the identity."""
    return x0_hat + jax.lax.stop_gradient(clip(x0_hat) - x0_hat)


@pytree_dataclass
class Estimate:
    """What the network says about the clean signal at one level."""

    x0_hat: jax.Array  # (*shape), after the step's bound
    fraction: Any = None  # (*shape) in [0, 1], of a learned variance; else None


class ReverseStep(abc.ABC):
    """One step of a reverse diffusion, `step(prior, x, now, next, noise) -> x_next`.

    `calls` counts the network forwards of a step; `stochastic` tells whether `noise`, a
    standard normal (*shape), is used (if not, pass None).
    """

    calls: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(
        self,
        prior: DiffusionPrior,
        x: jax.Array,
        now: NoiseLevel,
        next: NoiseLevel,
        noise: Any = None,
    ) -> jax.Array:
        """Move `x` (*shape) from level `now` to level `next` < now."""


@pytree_dataclass
class OneCallStep(ReverseStep):
    """A step of the form (1): one network call, then arithmetic.

    Solvers that need the clean estimate as well call `estimate` and `advance`, whose
    composition is the step. `bound` is applied to the clean estimate, inside the
    differentiated graph.
    """

    bound: Bound = static(default=unbounded)

    def __call__(
        self,
        prior: DiffusionPrior,
        x: jax.Array,
        now: NoiseLevel,
        next: NoiseLevel,
        noise: Any = None,
    ) -> jax.Array:
        return self.advance(x, self.estimate(prior, x, now), now, next, noise)

    def estimate(
        self, prior: DiffusionPrior, x: jax.Array, now: NoiseLevel
    ) -> Estimate:
        """Return the bounded clean estimate at `x`; the one network call."""
        return Estimate(x0_hat=self.bound(prior.denoise(x, now.sigma)))

    def advance(
        self,
        x: jax.Array,
        estimate: Estimate,
        now: NoiseLevel,
        next: NoiseLevel,
        noise: Any = None,
    ) -> jax.Array:
        """Return x' of (1); affine in `estimate.x0_hat` and free of network calls."""
        on_x0, on_x = self.mean_coefficients(now, next)
        mean = on_x0 * estimate.x0_hat + on_x * x
        if not self.stochastic:
            return mean
        return mean + self.noise_std(estimate, now, next) * noise

    def guidance_coefficient(self, now: NoiseLevel, next: NoiseLevel) -> jax.Array:
        """Return the exact change of x' per unit of score, () (equation 2).

        Both are in the canonical coordinate. In the coordinates x_t = scale * x the
        coefficient is scale * scale' times this one.
        """
        on_x0, _ = self.mean_coefficients(now, next)
        return now.sigma**2 * on_x0

    @abc.abstractmethod
    def mean_coefficients(
        self, now: NoiseLevel, next: NoiseLevel
    ) -> tuple[jax.Array, jax.Array]:
        """Return `(on_x0, on_x)` of (1), both ()."""

    def noise_std(
        self, estimate: Estimate, now: NoiseLevel, next: NoiseLevel
    ) -> jax.Array:
        """Return std of (1), () or (*shape)."""
        return jnp.zeros_like(now.sigma)


@pytree_dataclass
class Euler(OneCallStep):
    """Euler step of the probability-flow ODE dx/dsigma = eps_hat; equals DDIM(eta=0).

    Deterministic. Reference: "Elucidating the design space of diffusion-based
    generative models"; "Denoising diffusion implicit models".
    """

    def mean_coefficients(
        self, now: NoiseLevel, next: NoiseLevel
    ) -> tuple[jax.Array, jax.Array]:
        return (now.sigma - next.sigma) / now.sigma, next.sigma / now.sigma


@pytree_dataclass
class DDIM(OneCallStep):
    """Non-Markovian step with stochasticity `eta` in [0, 1].

    eta = 0 is `Euler`, eta = 1 is `Ancestral`. Independent of the signal scale in the
    canonical coordinate. Reference: "Denoising diffusion implicit models".
    """

    stochastic: ClassVar[bool] = True
    eta: Any = 0.0

    def mean_coefficients(
        self, now: NoiseLevel, next: NoiseLevel
    ) -> tuple[jax.Array, jax.Array]:
        ratio = next.sigma / now.sigma
        on_x = ratio * safe_sqrt(1 - self.eta**2 * (1 - ratio**2))
        return 1 - on_x, on_x

    def noise_std(
        self, estimate: Estimate, now: NoiseLevel, next: NoiseLevel
    ) -> jax.Array:
        return self.eta * _posterior_std(now, next)


@pytree_dataclass
class Renoise(OneCallStep):
    """Step that replaces a share of the predicted noise by fresh noise.

    eta = 0 is `Euler`; eta = 1 re-noises the clean estimate completely. This is the eta
    of DDRM and DDNM, not that of DDIM. An oracle denoiser keeps its exact marginals for
    every eta in [0, 1].
    """

    stochastic: ClassVar[bool] = True
    eta: Any = 1.0

    def mean_coefficients(
        self, now: NoiseLevel, next: NoiseLevel
    ) -> tuple[jax.Array, jax.Array]:
        on_x = next.sigma / now.sigma * safe_sqrt(1 - self.eta**2)
        return 1 - on_x, on_x

    def noise_std(
        self, estimate: Estimate, now: NoiseLevel, next: NoiseLevel
    ) -> jax.Array:
        return self.eta * next.sigma


@pytree_dataclass
class Ancestral(OneCallStep):
    """Draw from q(x' | x, x0_hat): the DDPM step with the posterior variance.

    Reference: "Denoising diffusion probabilistic models".
    """

    stochastic: ClassVar[bool] = True

    def mean_coefficients(
        self, now: NoiseLevel, next: NoiseLevel
    ) -> tuple[jax.Array, jax.Array]:
        ratio = next.sigma / now.sigma
        return (1 - ratio) * (1 + ratio), ratio**2

    def noise_std(
        self, estimate: Estimate, now: NoiseLevel, next: NoiseLevel
    ) -> jax.Array:
        return _posterior_std(now, next)


@pytree_dataclass
class AncestralLarge(Ancestral):
    """The DDPM step with the variance of the forward step, beta'.

    In VP coordinates the variance is beta' = 1 - alphas_cumprod / alphas_cumprod'. No
    noise is added on the step to the clean level.
    """

    def noise_std(
        self, estimate: Estimate, now: NoiseLevel, next: NoiseLevel
    ) -> jax.Array:
        return jnp.where(next.sigma > 0, _forward_std(now, next), 0)


@pytree_dataclass
class AncestralLearned(Ancestral):
    """The DDPM step with the variance that the network predicts.

    log var = fraction * log(beta') + (1 - fraction) * log(posterior variance), both of
    the respaced chain. No noise is added on the step to the clean level, where the
    posterior variance is 0 (openai/guided-diffusion replaces it there by the next one,
    and does not use it). Needs a `LearnedVariancePrior`. Reference: "Improved
    denoising diffusion probabilistic models".
    """

    def estimate(
        self, prior: DiffusionPrior, x: jax.Array, now: NoiseLevel
    ) -> Estimate:
        if not isinstance(prior, LearnedVariancePrior):
            raise TypeError(
                "AncestralLearned needs a LearnedVariancePrior; "
                f"{type(prior).__name__} predicts no variance. "
                "Use Ancestral or AncestralLarge."
            )
        x0_hat, fraction = prior.denoise_with_variance(x, now.sigma)
        return Estimate(x0_hat=self.bound(x0_hat), fraction=fraction)

    def noise_std(
        self, estimate: Estimate, now: NoiseLevel, next: NoiseLevel
    ) -> jax.Array:
        noisy = next.sigma > 0
        small = jnp.log(jnp.where(noisy, _posterior_std(now, next), 1))
        large = jnp.log(_forward_std(now, next))
        std = jnp.exp(estimate.fraction * large + (1 - estimate.fraction) * small)
        return jnp.where(noisy, std, 0)


def _posterior_std(now: NoiseLevel, next: NoiseLevel) -> jax.Array:
    """Standard deviation of q(x' | x, x0)."""
    lost, ratio = (now.sigma - next.sigma) / now.sigma, next.sigma / now.sigma
    return next.sigma * safe_sqrt(lost * (1 + ratio))


def _forward_std(now: NoiseLevel, next: NoiseLevel) -> jax.Array:
    """Standard deviation of the forward step x_t' -> x_t, in units of x'."""
    return now.scale / next.scale * root_of_difference(now.sigma, next.sigma)
