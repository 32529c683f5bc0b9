"""Models of p(x0 | x_sigma), the clean image given the state.

1. normal         N(x0_hat, r^2 I)
2. frozen score   grad log p(v | x) = s(x0_hat) + (x - v) / sigma^2, which is the normal
                  law N(x + sigma^2 s(x0_hat), sigma^2 I)
3. score          grad log p(v | x) = s(v) + (x - v) / sigma^2

with s the network's score at a small noise level. (3) is Bayes' rule, but for the small
noise; (1) is exact for an isotropic Gaussian prior, with x0_hat the denoiser.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import DiffusionPrior
from diffctl.diffusion import score_from_x0
from diffctl.numerics.safe import squared_norm
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.pigdm import estimate_variance


class LocalLaw(abc.ABC):
    """p(x0 | x_sigma) at one state, as a function of x0."""

    @property
    @abc.abstractmethod
    def precision(self) -> jax.Array:
        """The largest curvature of -log p, ()."""

    @abc.abstractmethod
    def score(self, v: jax.Array) -> jax.Array:
        """Return the gradient of log p at `v`, (*shape)."""

    @abc.abstractmethod
    def log_density(self, v: jax.Array) -> jax.Array:
        """Return log p at `v` up to a constant, (), if the law knows it."""


@pytree_dataclass
class NormalLaw(LocalLaw):
    """N(mean, variance I)."""

    mean: jax.Array  # (*shape)
    variance: jax.Array  # ()

    @property
    def precision(self) -> jax.Array:
        return 1 / self.variance

    def score(self, v: jax.Array) -> jax.Array:
        return (self.mean - v) / self.variance

    def log_density(self, v: jax.Array) -> jax.Array:
        return -squared_norm(v - self.mean) / (2 * self.variance)


@pytree_dataclass
class ScoredLaw(LocalLaw):
    """The law (3): a score without a density. One network call per score."""

    prior: DiffusionPrior
    x: jax.Array  # (*shape), the state
    sigma: jax.Array  # (), its level
    sigma_score: jax.Array  # (), that of the score

    @property
    def precision(self) -> jax.Array:
        return 1 / self.sigma_score**2 + 1 / self.sigma**2

    def score(self, v: jax.Array) -> jax.Array:
        own = _score(self.prior, v, self.sigma_score)
        return own + (self.x - v) / self.sigma**2

    def log_density(self, v: jax.Array) -> jax.Array:
        raise TypeError(
            "ScoreLaw has a score but no density, which this inner sampler needs. Use "
            "Langevin or UnderdampedLangevin, or a NormalSurrogate."
        )


class CleanLaw(abc.ABC):
    """A choice among the models."""

    @abc.abstractmethod
    def at(
        self, prior: DiffusionPrior, x: jax.Array, sigma: jax.Array, x0_hat: jax.Array
    ) -> LocalLaw:
        """Return the law given the state `x` at level `sigma`, with its estimate."""

    @abc.abstractmethod
    def calls(self, num_scores: int) -> int:
        """Return the network calls for `at` and that many scores."""


@pytree_dataclass
class NormalSurrogate(CleanLaw):
    """(1), with r^2 = sigma^2 s^2 / (sigma^2 + s^2).

    Args:
        signal_std: s, of the clean image, (); infinite for r = sigma.
    """

    signal_std: Any = 0.5

    def at(
        self, prior: DiffusionPrior, x: jax.Array, sigma: jax.Array, x0_hat: jax.Array
    ) -> NormalLaw:
        return NormalLaw(
            mean=x0_hat, variance=estimate_variance(sigma, self.signal_std)
        )

    def calls(self, num_scores: int) -> int:
        return 0


@pytree_dataclass
class FrozenScore(CleanLaw):
    """(2), the score taken once at the estimate.

    Args:
        sigma_score: level of the score, ().
    """

    sigma_score: Any = 0.01

    def at(
        self, prior: DiffusionPrior, x: jax.Array, sigma: jax.Array, x0_hat: jax.Array
    ) -> NormalLaw:
        level = jnp.asarray(self.sigma_score, sigma.dtype)
        score = _score(prior, x0_hat, level)
        return NormalLaw(mean=x + sigma**2 * score, variance=sigma**2)

    def calls(self, num_scores: int) -> int:
        return 1


@pytree_dataclass
class ScoreLaw(CleanLaw):
    """(3), the score taken anew at every inner step.

    Args:
        sigma_score: level of the score, (). Steps must be small beside its square.
    """

    sigma_score: Any = 0.01

    def at(
        self, prior: DiffusionPrior, x: jax.Array, sigma: jax.Array, x0_hat: jax.Array
    ) -> ScoredLaw:
        level = jnp.asarray(self.sigma_score, sigma.dtype)
        return ScoredLaw(prior=prior, x=x, sigma=sigma, sigma_score=level)

    def calls(self, num_scores: int) -> int:
        return num_scores


def _score(prior: DiffusionPrior, v: jax.Array, sigma: jax.Array) -> jax.Array:
    return score_from_x0(prior.denoise(v, sigma), v, sigma)
