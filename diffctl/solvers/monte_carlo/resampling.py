"""Resampling of weighted particles, in log space.

With weights W_j = w_j / sum w, cumulated to C_j, and u uniform in [0, 1):

1. systematic    a_i = min {j : C_j > (i + u) / N},  one u for all i
2. multinomial   a_i = min {j : C_j > u_i}
3. ESS           (sum w)^2 / sum w^2,  between 1 and N

Both are unbiased: particle j is chosen N W_j times on average; (1) differs from that
number by less than 1. Resampling gives every particle the mean weight, so that the mean
of the weights keeps estimating the same normalising constant, without bias.

Nothing here depends on a common factor of the weights, however large or small its
logarithm is. Where all weights are 0, (1) and (2) take them for equal, and (3) is 0.
"""

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.safe import safe_divide
from diffctl.pytree import pytree_dataclass, static

Scheme = Callable[[jax.Array, jax.Array], jax.Array]


def systematic(key: jax.Array, log_weights: jax.Array) -> jax.Array:
    """Return ancestors (N,) by (1), in increasing order."""
    offset = jax.random.uniform(key, (), log_weights.dtype)
    count = log_weights.size
    return ancestors(log_weights, (jnp.arange(count) + offset) / count)


def multinomial(key: jax.Array, log_weights: jax.Array) -> jax.Array:
    """Return ancestors (N,) by (2), drawn independently."""
    positions = jax.random.uniform(key, log_weights.shape, log_weights.dtype)
    return ancestors(log_weights, positions)


def ancestors(log_weights: jax.Array, positions: jax.Array) -> jax.Array:
    """Return the particles that hold the positions in [0, 1) of the cumulated weights.

    A particle of weight 0 holds none, unless all weights are 0.
    """
    weights, _ = relative_weights(log_weights)
    cumulated = jnp.cumsum(jnp.where(jnp.any(weights != 0), weights, 1))
    # Divided by the last entry, the end of the last positive weight is exactly 1.
    below_one = 1 - float(jnp.finfo(log_weights.dtype).eps) / 2
    positions = jnp.minimum(positions.astype(log_weights.dtype), below_one)
    found = jnp.searchsorted(cumulated / cumulated[-1], positions, side="right")
    return jnp.minimum(found, log_weights.size - 1)


def relative_weights(log_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return weights of which the largest is 1, and the logarithm of their unit, ().

    Weights that are all 0 stay so, in units of 1.
    """
    largest = jnp.max(log_weights)
    log_unit = jnp.where(largest == -jnp.inf, 0, largest)
    return jnp.exp(log_weights - log_unit), log_unit


def effective_sample_size(log_weights: jax.Array) -> jax.Array:
    """Return (3), (), for log weights up to a constant; N for equal ones."""
    weights, _ = relative_weights(log_weights)
    return safe_divide(jnp.sum(weights) ** 2, jnp.sum(weights**2))


def log_mean_weight(log_weights: jax.Array) -> jax.Array:
    """Return log(mean of the weights), ()."""
    weights, log_unit = relative_weights(log_weights)
    return log_unit + jnp.log(jnp.mean(weights))


class Resampling(abc.ABC):
    """When, and how, particles are replaced by copies of the heavier ones."""

    @abc.abstractmethod
    def __call__(
        self, key: jax.Array, log_weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the ancestors and the log weights after resampling, (N,) both."""


@pytree_dataclass
class ResampleWhenDegenerate(Resampling):
    """Resample when the effective sample size falls below `threshold` * N.

    Every resampling loses ancestors, also of equal weights: doing it only where the
    weights have become unequal is what keeps long chains of few particles diverse.
    """

    threshold: Any = 0.5  # (), 0 never, 1 whenever weights differ
    scheme: Scheme = static(default=systematic)

    def __call__(
        self, key: jax.Array, log_weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        size = log_weights.size
        degenerate = effective_sample_size(log_weights) < self.threshold * size
        chosen, equal = ResampleAlways(scheme=self.scheme)(key, log_weights)
        return (
            jnp.where(degenerate, chosen, jnp.arange(size, dtype=chosen.dtype)),
            jnp.where(degenerate, equal, log_weights),
        )


@pytree_dataclass
class ResampleAlways(Resampling):
    """Resample at every step, as published codes do."""

    scheme: Scheme = static(default=multinomial)

    def __call__(
        self, key: jax.Array, log_weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        equal = jnp.broadcast_to(log_mean_weight(log_weights), log_weights.shape)
        return self.scheme(key, log_weights), equal


@pytree_dataclass
class NeverResample(Resampling):
    """Keep all particles: importance sampling along the whole path."""

    def __call__(
        self, key: jax.Array, log_weights: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        return jnp.arange(log_weights.size), log_weights
