"""The exact Gaussian-mixture prior: a non-linear, multi-modal oracle.

With x0 ~ sum_k pi_k N(m_k, C_k) and x = x0 + sigma * eps:

1. weights    r_k(x) proportional to pi_k N(x; m_k, C_k + sigma^2 I)
2. denoise    D(x) = sum_k r_k(x) D_k(x), D_k the Gaussian denoiser of component k
3. posterior  components by the Gaussian rule, weights proportional to
              pi_k N(y; A m_k, A C_k A^T + s^2 I)
4. excess     |x - m_k|_k^2 - |x - m_n|_n^2
                  = sum (W_k g - W_n g) (W_k g + W_n g) - sum W_k h (2 W_k g - W_k h),
              g = x - m_n, h = m_k - m_n, |u|_k = |W_k u|, n the likeliest component

The squared distances of (1) and (3) may be millions where two components are equally
likely. (4) is what they differ by, summed entry by entry, so that float32 does not lose
it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import NoisyDensityPrior
from diffctl.diffusion.conversions import score_from_x0
from diffctl.numerics.concrete import is_known
from diffctl.numerics.tangents import with_tangent_of
from diffctl.priors.gaussian import GaussianPrior
from diffctl.pytree import pytree_dataclass, static

Whitening = Callable[[GaussianPrior, jax.Array], tuple[jax.Array, jax.Array]]


def normalised_log(weights: Any) -> np.ndarray | jax.Array:
    """Return the logs of weights (K,) that are scaled to sum to 1; 0 becomes -inf.

    What is traced, for instance differentiated, is unchecked; a traced weight of 0 has
    no derivative.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """
    if not is_known(weights):
        return jnp.log(weights / jnp.sum(weights))
    weights = np.asarray(weights, dtype=np.float64)
    largest = weights.max(initial=0.0)
    if not (np.all(weights >= 0) and 0 < largest < math.inf):
        raise ValueError(
            f"weights must be finite, non-negative and not all 0; got {weights!r}."
        )
    # By a power of two, which is exact: sums of huge weights would be infinite, and
    # quotients of tiny ones inexact.
    weights = np.ldexp(weights, -np.frexp(largest)[1])
    with np.errstate(divide="ignore"):
        return np.log(weights / weights.sum())


@pytree_dataclass
class GaussianMixturePrior(NoisyDensityPrior):
    """A mixture of Gaussians with full covariances. Weights are kept in log space."""

    log_weights: jax.Array  # (K,), normalised
    components: GaussianPrior  # leaves with a leading axis K
    shape: tuple[int, ...] = static()

    @classmethod
    def from_moments(
        cls, weights: Any, means: Any, covariances: Any
    ) -> "GaussianMixturePrior":
        """Build from weights (K,), means (K, *shape) and covariances (K, d, d).

        The weights are normalised; a weight may be 0.

        Raises:
            ValueError: the numbers of components disagree, a weight is negative or not
                finite, all are 0, or a covariance is invalid (see `GaussianPrior`).
        """
        if not len(weights) == len(means) == len(covariances) > 0:
            raise ValueError(
                "weights, means and covariances must have one entry for each of at "
                f"least one component; got {len(weights)}, {len(means)} and "
                f"{len(covariances)}."
            )
        log_weights = normalised_log(weights)
        parts = [
            GaussianPrior.from_moments(mean, covariance)
            for mean, covariance in zip(means, covariances, strict=True)
        ]
        return cls(
            log_weights=jnp.asarray(log_weights),
            components=jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts),
            shape=parts[0].shape,
        )

    def log_responsibilities(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return log p(component | x) at noise level `sigma`, (K,), by (1)."""
        return jax.nn.log_softmax(self._compared(x, sigma)[1])

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        estimates = jax.vmap(lambda part: part.denoise(x, sigma))(self.components)
        weights = jnp.exp(self.log_responsibilities(x, sigma))
        return jnp.tensordot(weights, estimates, axes=1, precision="highest")

    def score(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return grad log p_sigma(x), (*shape); sigma > 0."""
        return score_from_x0(self.denoise(x, sigma), x, sigma)

    def log_density(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return log p_sigma(x), ()."""
        likeliest, log_ratios = self._compared(x, sigma)
        return likeliest + jax.nn.logsumexp(log_ratios)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw a clean signal, (*shape)."""
        key_component, key_signal = jax.random.split(key)
        index = jax.random.categorical(key_component, self.log_weights)
        return jax.tree.map(lambda leaf: leaf[index], self.components).sample(
            key_signal
        )

    def moments(self) -> tuple[jax.Array, jax.Array]:
        """Return the mean, (*shape), and the covariance, (d, d), of the mixture."""
        weights = jnp.exp(self.log_weights)
        centres = self.components.mean.reshape(weights.size, -1)
        mean = jnp.matmul(weights, centres, precision="highest")
        spread = centres - mean[None, :]
        between = jnp.matmul((weights[:, None] * spread).T, spread, precision="highest")
        within = jax.vmap(lambda part: part.covariance())(self.components)
        within = jnp.tensordot(weights, within, axes=1, precision="highest")
        return mean.reshape(self.shape), within + between

    def posterior(
        self, y: jax.Array, matrix: jax.Array, noise_std: jax.Array
    ) -> "GaussianMixturePrior":
        """Return the law of x0 given y = A x0 + noise_std * n, by (3).

        Its `denoise` is the exact conditional denoiser E[x0 | x, y].

        Args:
            y: measurement, (m,).
            matrix: A, (m, d), acting on the flattened signal.
            noise_std: s > 0, (), on the [-1, 1] scale.
        """

        def update(part: GaussianPrior) -> tuple[GaussianPrior, jax.Array]:
            evidence = part.log_evidence(y, matrix, noise_std)
            return part.posterior(y, matrix, noise_std), evidence

        components, evidence = jax.vmap(update)(self.components)
        _, log_ratios = self._against_likeliest(
            evidence,
            lambda part, columns: part.whitened_evidence(columns, matrix, noise_std),
            y,
            lambda means: jnp.matmul(means, matrix.T, precision="highest"),
        )
        return GaussianMixturePrior(
            log_weights=jax.nn.log_softmax(log_ratios),
            components=components,
            shape=self.shape,
        )

    def _compared(self, x: jax.Array, sigma: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return log pi_n N_n(x), (), and the logs of pi_k N_k(x) over it, (K,)."""
        return self._against_likeliest(
            jax.vmap(lambda part: part.log_density(x, sigma))(self.components),
            lambda part, columns: part.whitened(columns, sigma),
            x.reshape(-1),
            lambda means: means,
        )

    def _against_likeliest(
        self,
        densities: jax.Array,
        whiten: Whitening,
        point: jax.Array,
        project: Callable[[jax.Array], jax.Array],
    ) -> tuple[jax.Array, jax.Array]:
        """Compare the components at a point by (4).

        Args:
            densities: log N_k(point), (K,): right in their derivatives and, each by
                itself, in value.
            whiten: from a component and columns (m, j) to W_k times them, (m, j), and
                the logs of the eigenvalues of its covariance or of other numbers of
                the same product, (m,).
            point: x or y, (m,).
            project: from flattened signals (..., d) to the space of `point`.

        Returns:
            log pi_n N_n, (), of the likeliest, and the logs of pi_k N_k over it, (K,).
        """
        joint = self.log_weights + densities
        n = jnp.argmax(joint)
        means = self.components.mean.reshape(joint.size, -1)
        gap = point - project(means[n])
        shifts = project(means - means[n][None])
        columns = jnp.stack([jnp.broadcast_to(gap, shifts.shape), shifts], axis=-1)
        white, log_scales = jax.vmap(whiten)(self.components, columns)
        gaps, moves = white[..., 0], white[..., 1]
        likeliest = gaps[n][None]
        excess = (gaps - likeliest) * (gaps + likeliest) - moves * (2 * gaps - moves)
        lost = jnp.sum(excess + (log_scales - log_scales[n][None]), axis=1) / 2
        log_ratios = self.log_weights - self.log_weights[n] - lost
        return joint[n], with_tangent_of(log_ratios, joint - joint[n])
