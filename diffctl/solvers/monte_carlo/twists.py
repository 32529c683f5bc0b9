"""Twisting functions: guesses of log p(y | x) from the clean estimate D of x.

With r^2 = sigma^2 sigma_d^2 / (sigma^2 + sigma_d^2), the variance of x0 given x for a
signal of standard deviation sigma_d, and y_i, s_y / s_i the spectral data:

1. isotropic   -|y - A(D)|^2 / (2 (s_y^2 + g^2 r^2)),   g about |A|
2. spectral    -1/2 sum_i (y_i - D_i)^2 / (s_y^2 / s_i^2 + r^2)
3. plain       log p(y | D)

Normalisers that depend on the level alone are left out: weights only ever contain
ratios of twists at the same level. Any twist leaves the sampler exact; a better one
needs fewer particles. (2) is exact for an isotropic Gaussian signal.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.operators.base import Problem, SpectralOperator, WhiteNoise
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.pigdm import estimate_variance
from diffctl.solvers.requirements import noise_std, spectral
from diffctl.solvers.spectral import SpectralData


def spectral_log_likelihood(
    problem: Problem, x: jax.Array, variance: jax.Array
) -> jax.Array:
    """Return log N(y; A x, s_y^2 I + variance A A^T), (), up to a constant.

    The constant depends on `variance` and on what of y is outside the range of A.
    """
    data = SpectralData.of(problem)
    gap = data.y - spectral(problem).v_adjoint(x)
    spread = jnp.where(data.measured, data.std**2 + variance, 1)
    return -jnp.sum(jnp.where(data.measured, gap**2 / spread, 0)) / 2


class Twist(abc.ABC):
    """log g(x) as a function of the clean estimate at x."""

    @abc.abstractmethod
    def __call__(
        self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        """Return log g, ()."""

    def check(self, problem: Problem) -> None:  # noqa: B027 (optional)
        """Raise TypeError unless the twist can be evaluated for this problem."""


@pytree_dataclass
class IsotropicTwist(Twist):
    """(1), for white noise and any operator.

    The one twist with a unit: `gain` is that of y over x, 1 for operators of norm 1.
    """

    signal_std: Any = 1.0  # () sigma_d > 0
    gain: Any = 1.0  # () g > 0

    def check(self, problem: Problem) -> None:
        _need(problem.noise, WhiteNoise, "noise", self)

    def __call__(
        self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        own = (noise_std(problem) / self.gain) ** 2
        total = own + estimate_variance(sigma, self.signal_std)
        return -problem.misfit(x0_hat) * own / total


@pytree_dataclass
class SpectralTwist(Twist):
    """(2), for white noise and spectral operators."""

    signal_std: Any = 1.0  # () sigma_d > 0

    def check(self, problem: Problem) -> None:
        _need(problem.noise, WhiteNoise, "noise", self)
        _need(problem.operator, SpectralOperator, "operator", self)

    def __call__(
        self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        variance = estimate_variance(sigma, self.signal_std)
        return spectral_log_likelihood(problem, x0_hat, variance)


@pytree_dataclass
class PlainTwist(Twist):
    """(3), for any noise model: the likelihood of the estimate itself."""

    def __call__(
        self, problem: Problem, x0_hat: jax.Array, sigma: jax.Array
    ) -> jax.Array:
        return -problem.misfit(x0_hat)


def _need(given: Any, needed: type, role: str, twist: Twist) -> None:
    if not isinstance(given, needed):
        raise TypeError(
            f"{type(twist).__name__} needs a {needed.__name__} as {role}; "
            f"{type(given).__name__} is not one. Use PlainTwist()."
        )
