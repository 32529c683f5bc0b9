"""The exact prior of round clusters of one size: a mixture for high dimensions.

With x0 ~ sum_k pi_k N(m_k, s^2 I), x = x0 + sigma * eps and v = s^2 + sigma^2:

1. log joint  log pi_k + log N(x; m_k, v I) = log pi_k - |x - m_k|^2 / (2 v)
                                              - d/2 log(2 pi v)
2. gain       (|x - m_n|^2 - |x - m_k|^2) / (2 v)
                  = <m_k - m_n, x - m_n - (m_k - m_n) / 2> / v,  n the likeliest
3. weights    r_k(x), the softmax of (1), or of log pi_k and (2)
4. denoise    D(x) = (s^2 x + sigma^2 sum_k r_k(x) m_k) / v

The squares of (1) may be millions where two components are equally far. (2) is what
they differ by, summed entry by entry, so that float32 does not lose it.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import NoisyDensityPrior
from diffctl.diffusion.conversions import score_from_x0
from diffctl.numerics.precision import as_computed
from diffctl.numerics.safe import squared_norm
from diffctl.priors.mixture import normalised_log
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class IsotropicMixturePrior(NoisyDensityPrior):
    """A mixture of Gaussians that all have the covariance s^2 I.

    `GaussianMixturePrior` without its matrices: K products of vectors for a call, so
    that d may be in the thousands.
    """

    log_weights: jax.Array  # (K,), normalised
    means: jax.Array  # (K, *shape)
    std: jax.Array  # () s > 0
    shape: tuple[int, ...] = static()

    @classmethod
    def from_moments(
        cls, weights: Any, means: Any, std: float
    ) -> "IsotropicMixturePrior":
        """Build from weights (K,), means (K, *shape) and the standard deviation s.

        The weights are normalised; a weight may be 0.

        Raises:
            ValueError: the numbers of components disagree, an entry is not finite, a
                weight is negative or all are 0, or s is not positive.
        """
        weights = np.asarray(weights, dtype=np.float64)
        means = np.asarray(means, dtype=np.float64)
        if weights.ndim != 1 or means.shape[:1] != weights.shape or not weights.size:
            raise ValueError(
                "weights and means must have one entry for each of at least one "
                f"component; got the shapes {weights.shape} and {means.shape}."
            )
        computed, places = as_computed(std), as_computed(means)
        if not (np.all(np.isfinite(places)) and 0 < computed < math.inf):
            raise ValueError(
                f"means must be finite and std positive, also in {computed.dtype}; std "
                f"is {std!r}, {computed} there, and {np.sum(~np.isfinite(places))} "
                "entries of means are not finite."
            )
        return cls(
            log_weights=jnp.asarray(normalised_log(weights)),
            means=jnp.asarray(means),
            std=jnp.asarray(float(std)),
            shape=means.shape[1:],
        )

    def log_responsibilities(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return log p(component | x) at noise level `sigma`, (K,), by (3)."""
        _, log_shares = self._compared(x, sigma)
        return jax.nn.log_softmax(log_shares)

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        _, log_shares = self._compared(x, sigma)
        weights = jax.nn.softmax(log_shares)
        centre = jnp.tensordot(weights, self.means, axes=1, precision="highest")
        variance = self.std**2 + sigma**2
        return (self.std**2 * x + sigma**2 * centre) / variance

    def score(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return grad log p_sigma(x), (*shape); sigma > 0."""
        return score_from_x0(self.denoise(x, sigma), x, sigma)

    def log_density(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return log p_sigma(x), ()."""
        variance = self.std**2 + sigma**2
        gap, log_shares = self._compared(x, sigma)
        energy = squared_norm(gap) / variance + x.size * jnp.log(2 * math.pi * variance)
        return jax.nn.logsumexp(log_shares) - energy / 2

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw a clean signal, (*shape)."""
        key_component, key_signal = jax.random.split(key)
        index = jax.random.categorical(key_component, self.log_weights)
        noise = jax.random.normal(key_signal, self.shape, self.means.dtype)
        return self.means[index] + self.std * noise

    def _compared(self, x: jax.Array, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return x - m_n, (d,), and (1) without what it has of n, (K,)."""
        variance = self.std**2 + sigma**2
        centres = self.means.reshape(self.log_weights.size, -1)
        distances = jnp.sum((x.reshape(1, -1) - centres) ** 2, axis=1)
        nearest = jnp.argmax(self.log_weights - distances / (2 * variance))
        gap, shifts = x.reshape(-1) - centres[nearest], centres - centres[nearest][None]
        gain = jnp.sum(shifts * (gap[None] - shifts / 2), axis=1) / variance
        return gap, self.log_weights + gain
