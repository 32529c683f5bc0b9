"""Reverse steps that integrate the probability-flow ODE or the reverse SDE.

In the coordinates x_t = scale * x of a schedule with drift f and diffusion g:

1. ODE: dx = (f - g^2 score / 2) dt;   SDE: dx = (f - g^2 score) dt + g dw
2. for x itself, in the variable sigma, (1) reads dx/dsigma = eps_hat

The step to the clean level returns x0_hat without noise, as do those of `reverse.py`.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior
from diffctl.diffusion.grids import NoiseLevel
from diffctl.diffusion.reverse import (
    Bound,
    Estimate,
    OneCallStep,
    ReverseStep,
    unbounded,
)
from diffctl.diffusion.schedules import Schedule
from diffctl.numerics.safe import safe_sqrt
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class FlowEuler(OneCallStep):
    """Euler step of the probability-flow ODE in the time of `schedule`.

    x_t' = x_t - (f - g^2 score / 2) dt in the coordinates x_t = scale * x. The grid
    must have been built from the same schedule.
    """

    schedule: Schedule

    def mean_coefficients(
        self, now: NoiseLevel, next: NoiseLevel
    ) -> tuple[jax.Array, jax.Array]:
        return _time_coefficients(self.schedule, now, next, score_weight=0.5)


@pytree_dataclass
class EulerMaruyama(OneCallStep):
    """Euler-Maruyama step of the reverse SDE in the time of `schedule`.

    x_t' = x_t - (f - g^2 score) dt + g sqrt(dt) z in the coordinates x_t = scale * x.
    The grid must have been built from the same schedule. Reference: "Score-based
    generative modeling through stochastic differential equations".
    """

    stochastic: ClassVar[bool] = True
    schedule: Schedule

    def mean_coefficients(
        self, now: NoiseLevel, next: NoiseLevel
    ) -> tuple[jax.Array, jax.Array]:
        return _time_coefficients(self.schedule, now, next, score_weight=1.0)

    def noise_std(
        self, estimate: Estimate, now: NoiseLevel, next: NoiseLevel
    ) -> jax.Array:
        variance = self.schedule.diffusion_squared(now.time) * (now.time - next.time)
        return jnp.where(next.sigma > 0, safe_sqrt(variance) / next.scale, 0)


@pytree_dataclass
class Heun(ReverseStep):
    """Second-order step of the probability-flow ODE dx/dsigma = eps_hat.

    d  = eps_hat(x, s),  x_e = x + (s' - s) d
    x' = x + (s' - s) (d + eps_hat(x_e, s')) / 2

    On the step to the clean level x' = x_e = x0_hat; the second call is then made at s
    and discarded, so that each step costs two calls (2T in all; NVlabs/edm: 2T - 1).
    Reference: "Elucidating the design space of diffusion-based generative models".
    """

    calls: ClassVar[int] = 2
    bound: Bound = static(default=unbounded)

    def __call__(
        self,
        prior: DiffusionPrior,
        x: jax.Array,
        now: NoiseLevel,
        next: NoiseLevel,
        noise: Any = None,
    ) -> jax.Array:
        width = next.sigma - now.sigma
        slope = self._slope(prior, x, now.sigma)
        predicted = x + width * slope
        noisy = next.sigma > 0
        # Guard the argument, not only the result: 0/0 would poison the gradient.
        corrected = self._slope(
            prior, predicted, jnp.where(noisy, next.sigma, now.sigma)
        )
        return x + width * jnp.where(noisy, (slope + corrected) / 2, slope)

    def _slope(
        self, prior: DiffusionPrior, x: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        return (x - self.bound(prior.denoise(x, sigma))) / sigma


def _time_coefficients(
    schedule: Schedule, now: NoiseLevel, next: NoiseLevel, score_weight: float
) -> tuple[jax.Array, jax.Array]:
    """Coefficients of x_t - (f - score_weight * g^2 score) dt, in units of x'."""
    clean = next.sigma == 0
    width = now.time - next.time
    growth = now.scale / next.scale
    variance_rate = schedule.diffusion_squared(now.time) / now.scale**2
    pull = score_weight * width * variance_rate / now.sigma**2
    on_x = growth * (1 - width * schedule.drift_rate(now.time) - pull)
    return jnp.where(clean, 1, growth * pull), jnp.where(clean, 0, on_x)
