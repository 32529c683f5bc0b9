"""The exact Gaussian prior: every quantity of the diffusion in closed form.

With x0 ~ N(m, C), C = V diag(w) V^T and x = x0 + sigma * eps:

1. denoise      D(x) = m + C (C + sigma^2 I)^{-1} (x - m)
2. log density  x ~ N(m, C + sigma^2 I)
3. exact flow   x' = m + V diag(sqrt((w + sigma'^2) / (w + sigma^2))) V^T (x - m)
4. posterior    S = (C^{-1} + A^T A / s^2)^{-1},  mean m + S A^T (y - A m) / s^2
5. evidence     y ~ N(A m, A C A^T + s^2 I)
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import NoisyDensityPrior
from diffctl.diffusion.conversions import score_from_x0
from diffctl.numerics.normal import standard_normal
from diffctl.numerics.precision import as_computed
from diffctl.numerics.safe import safe_divide
from diffctl.pytree import pytree_dataclass, static

HIGHEST = jax.lax.Precision.HIGHEST


@pytree_dataclass
class GaussianPrior(NoisyDensityPrior):
    """A Gaussian signal with full covariance, the oracle for every solver.

    Signals may have any shape; matrices act on the flattened signal. The covariance may
    be singular. It is stored as its eigensystem, so a new sigma costs two products.
    """

    mean: jax.Array  # (*shape)
    eigenvalues: jax.Array  # (d,) of the covariance, >= 0
    eigenvectors: jax.Array  # (d, d), in columns
    shape: tuple[int, ...] = static()

    @classmethod
    def from_moments(cls, mean: Any, covariance: Any) -> "GaussianPrior":
        """Build from the mean, (*shape), and the covariance, (d, d), d = prod(shape).

        Runs in float64 on the host, then casts to JAX's default float.

        Raises:
            ValueError: shapes disagree, an entry is not finite, or the covariance is
                not symmetric and positive semi-definite.
        """
        mean = np.asarray(mean, dtype=np.float64)
        covariance = np.asarray(covariance, dtype=np.float64)
        if not np.all(np.isfinite(as_computed(mean))):
            raise ValueError("mean has non-finite entries.")
        _check_covariance(covariance, mean.size)
        eigenvalues, eigenvectors = np.linalg.eigh(covariance)
        return cls(
            mean=jnp.asarray(mean),
            eigenvalues=jnp.asarray(np.maximum(eigenvalues, 0)),
            eigenvectors=jnp.asarray(eigenvectors),
            shape=mean.shape,
        )

    def covariance(self) -> jax.Array:
        """Return C, (d, d)."""
        scaled = self.eigenvectors * self.eigenvalues[None, :]
        return jnp.matmul(scaled, self.eigenvectors.T, precision=HIGHEST)

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        variance = self.eigenvalues + sigma**2
        return self._filter(x, safe_divide(self.eigenvalues, variance))

    def score(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return grad log p_sigma(x), (*shape); sigma > 0."""
        return score_from_x0(self.denoise(x, sigma), x, sigma)

    def log_density(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return log p_sigma(x), (), by (2); sigma^2 + eigenvalues > 0."""
        variance = self.eigenvalues + sigma**2
        return _normal_log_density(self._coordinates(x), variance)

    def flow(self, x: jax.Array, sigma: jax.Array, sigma_next: jax.Array) -> jax.Array:
        """Return the exact probability-flow ODE solution at `sigma_next`, by (3).

        Args:
            x: state at `sigma`, (*shape).
            sigma: noise level > 0, ().
            sigma_next: noise level >= 0, ().
        """
        variance = self.eigenvalues + sigma**2
        variance_next = self.eigenvalues + sigma_next**2
        return self._filter(x, jnp.sqrt(variance_next / variance))

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw a clean signal, (*shape)."""
        noise = standard_normal(key, self.eigenvalues)
        return self.mean + self._signal(jnp.sqrt(self.eigenvalues) * noise)

    def posterior(
        self, y: jax.Array, matrix: jax.Array, noise_std: jax.Array
    ) -> "GaussianPrior":
        """Return the law of x0 given y = A x0 + noise_std * n, by (4).

        Its `denoise` is the exact conditional denoiser E[x0 | x, y].

        Args:
            y: measurement, (m,).
            matrix: A, (m, d), acting on the flattened signal.
            noise_std: s > 0, (), on the [-1, 1] scale.
        """
        root = (
            self.eigenvectors * jnp.sqrt(self.eigenvalues)[None, :]
        )  # C = root root^T
        whitened = jnp.matmul(matrix, root, precision=HIGHEST) / noise_std
        precision = jnp.eye(root.shape[0], dtype=root.dtype)
        precision += jnp.matmul(whitened.T, whitened, precision=HIGHEST)
        gain, basis = jnp.linalg.eigh(precision)  # gain >= 1
        # S = factor factor^T: positive semi-definite by construction.
        factor = jnp.matmul(root, basis / jnp.sqrt(gain)[None, :], precision=HIGHEST)
        vectors, roots, _ = jnp.linalg.svd(factor)
        pull = jnp.matmul(matrix.T, self._residual(y, matrix), precision=HIGHEST)
        shift = jnp.matmul(
            factor, jnp.matmul(factor.T, pull, precision=HIGHEST), precision=HIGHEST
        )
        return GaussianPrior(
            mean=self.mean + shift.reshape(self.shape) / noise_std**2,
            eigenvalues=roots**2,
            eigenvectors=vectors,
            shape=self.shape,
        )

    def log_evidence(
        self, y: jax.Array, matrix: jax.Array, noise_std: jax.Array
    ) -> jax.Array:
        """Return log p(y) for y = A x0 + noise_std * n, (), by (5).

        Arguments as in `posterior`.
        """
        root = self.eigenvectors * jnp.sqrt(self.eigenvalues)[None, :]
        observed = jnp.matmul(matrix, root, precision=HIGHEST)
        covariance = jnp.matmul(observed, observed.T, precision=HIGHEST)
        covariance += noise_std**2 * jnp.eye(matrix.shape[0], dtype=matrix.dtype)
        lower = jnp.linalg.cholesky(covariance)
        residual = self._residual(y, matrix)
        white = jax.scipy.linalg.solve_triangular(lower, residual, lower=True)
        log_det = jnp.sum(jnp.log(jnp.diagonal(lower)))
        return _normal_log_density(white, jnp.ones_like(white)) - log_det

    def _residual(self, y: jax.Array, matrix: jax.Array) -> jax.Array:
        return y - jnp.matmul(matrix, self.mean.reshape(-1), precision=HIGHEST)

    def _coordinates(self, x: jax.Array) -> jax.Array:
        """V^T (x - m), (d,)."""
        centred = (x - self.mean).reshape(-1)
        return jnp.matmul(self.eigenvectors.T, centred, precision=HIGHEST)

    def _signal(self, coordinates: jax.Array) -> jax.Array:
        """V coordinates, (*shape)."""
        flat = jnp.matmul(self.eigenvectors, coordinates, precision=HIGHEST)
        return flat.reshape(self.shape)

    def _filter(self, x: jax.Array, factors: jax.Array) -> jax.Array:
        """Return m + V diag(factors) V^T (x - m)."""
        return self.mean + self._signal(factors * self._coordinates(x))


def _normal_log_density(coordinates: jax.Array, variance: jax.Array) -> jax.Array:
    """Log density of N(0, diag(variance)) at `coordinates`."""
    constant = math.log(2 * math.pi)
    return -jnp.sum(constant + jnp.log(variance) + coordinates**2 / variance) / 2


def _check_covariance(covariance: np.ndarray, size: int) -> None:
    if covariance.shape != (size, size):
        raise ValueError(
            f"covariance must have shape {(size, size)}, the square of the size of the "
            f"mean; got {covariance.shape}."
        )
    if not np.all(np.isfinite(as_computed(covariance))):
        raise ValueError("covariance has non-finite entries.")
    largest = np.max(np.abs(covariance), initial=0.0)
    if not np.allclose(covariance, covariance.T, rtol=0, atol=1e-6 * largest):
        raise ValueError("covariance must be symmetric; use (C + C.T) / 2.")
    smallest = np.min(np.linalg.eigvalsh(covariance), initial=0.0)
    if smallest < -1e-6 * largest:
        raise ValueError(
            "covariance must be positive semi-definite; its smallest eigenvalue is "
            f"{smallest:g}."
        )
