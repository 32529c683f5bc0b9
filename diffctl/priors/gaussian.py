"""The exact Gaussian prior: every quantity of the diffusion in closed form.

With x0 ~ N(m, C), C = V diag(w) V^T and x = x0 + sigma * eps:

1. denoise      D(x) = m + C (C + sigma^2 I)^{-1} (x - m)
2. log density  x ~ N(m, C + sigma^2 I)
3. exact flow   x' = m + V diag(sqrt((w + sigma'^2) / (w + sigma^2))) V^T (x - m)
4. posterior    S = (C^{-1} + A^T A / s^2)^{-1},  mean m + S A^T (y - A m) / s^2
5. evidence     y ~ N(A m, M),  M = A C A^T + s^2 I

Derivatives also follow where C is singular or has repeated eigenvalues, which have no
derivative themselves; there those of (3) and of `sample` are exact in first order only.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffctl.core import NoisyDensityPrior
from diffctl.diffusion.conversions import score_from_x0
from diffctl.numerics.concrete import is_known
from diffctl.numerics.factors import (
    eigensystem,
    log_determinant,
    psd_eigensystem,
    shifted_solve,
)
from diffctl.numerics.normal import standard_normal
from diffctl.numerics.precision import as_computed
from diffctl.numerics.safe import safe_divide, safe_sqrt
from diffctl.numerics.tangents import tangent_product, with_tangent_of
from diffctl.pytree import pytree_dataclass, static

HIGHEST = lax.Precision.HIGHEST


@pytree_dataclass
class GaussianPrior(NoisyDensityPrior):
    """A Gaussian signal with full covariance, the oracle for every solver.

    Signals may have any shape; matrices act on the flattened signal. The covariance may
    be singular. It is stored as its eigensystem, so a new sigma costs two products.
    """

    mean: jax.Array  # (*shape)
    eigenvalues: jax.Array  # (d,) of the covariance, >= 0
    eigenvectors: jax.Array  # (d, d), in columns
    # (d, d), R of C = V (diag(w) + R) V^T: zero, but with a tangent where derivatives
    # with respect to C are taken. None for factors that are not those of a known C.
    remainder: jax.Array | None = None
    shape: tuple[int, ...] = static()

    @classmethod
    def from_moments(cls, mean: Any, covariance: Any) -> "GaussianPrior":
        """Build from the mean, (*shape), and the covariance, (d, d), d = prod(shape).

        Runs in float64 on the host, then casts to JAX's default float; what is traced,
        for instance differentiated, is factorised in its own precision, unchecked.

        Raises:
            ValueError: shapes disagree, an entry is not finite, or the covariance is
                not symmetric and positive semi-definite.
        """
        mean = _on_host(mean)
        if is_known(mean) and not np.all(np.isfinite(as_computed(mean))):
            raise ValueError("mean has non-finite entries.")
        covariance = _on_host(covariance)
        _check_covariance(covariance, mean.size)
        eigenvalues, eigenvectors, remainder = _factorised(covariance)
        return cls(
            mean=jnp.asarray(mean),
            eigenvalues=eigenvalues,
            eigenvectors=eigenvectors,
            remainder=remainder,
            shape=mean.shape,
        )

    def covariance(self) -> jax.Array:
        """Return C, (d, d)."""
        return self._spread(self.eigenvectors.T)

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        z = self._coordinates(x)
        solved = shifted_solve(
            self.eigenvalues,
            self._remainder,
            sigma**2,
            self.eigenvalues * z + tangent_product(self._remainder, z),
        )
        return self.mean + self._signal(solved)

    def score(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return grad log p_sigma(x), (*shape); sigma > 0."""
        return score_from_x0(self.denoise(x, sigma), x, sigma)

    def log_density(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        """Return log p_sigma(x), (), by (2); sigma^2 + eigenvalues > 0."""
        variance, z = self.eigenvalues + sigma**2, self._coordinates(x)
        nothing = jnp.zeros((), variance.dtype)
        energy = jnp.sum(z * shifted_solve(variance, self._remainder, nothing, z))
        log_det = log_determinant(variance, self._remainder)
        return -(z.size * math.log(2 * math.pi) + log_det + energy) / 2

    def flow(self, x: jax.Array, sigma: jax.Array, sigma_next: jax.Array) -> jax.Array:
        """Return the exact probability-flow ODE solution at `sigma_next`, by (3).

        Args:
            x: state at `sigma`, (*shape).
            sigma: noise level > 0, ().
            sigma_next: noise level >= 0, ().
        """
        variance = self.eigenvalues + sigma**2
        left = self.eigenvalues + sigma_next**2
        # Where nothing is left, sigma' / sigma has the slope in sigma' of the root.
        factors = jnp.where(left > 0, safe_sqrt(left / variance), sigma_next / sigma)
        # (f_i - f_j) / (w_i - w_j), without the cancellation.
        slopes = safe_divide(
            (sigma**2 - sigma_next**2) / jnp.outer(variance, variance),
            factors[:, None] + factors[None, :],
        )
        return self.mean + self._signal(
            self._mapped(factors, slopes, self._coordinates(x))
        )

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw a clean signal, (*shape)."""
        roots = safe_sqrt(self.eigenvalues)
        slopes = safe_divide(1, roots[:, None] + roots[None, :])
        noise = standard_normal(key, self.eigenvalues)
        return self.mean + self._signal(self._mapped(roots, slopes, noise))

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
        shift, covariance = self._conditioned(y, matrix, noise_std)
        mean, values, vectors = lax.stop_gradient(
            self._conditioned_factors(y, matrix, noise_std)
        )
        values, vectors, remainder = eigensystem(covariance, values, vectors)
        return GaussianPrior(
            mean=with_tangent_of(mean, self.mean + shift.reshape(self.shape)),
            eigenvalues=values,
            eigenvectors=vectors,
            remainder=remainder,
            shape=self.shape,
        )

    def log_evidence(
        self, y: jax.Array, matrix: jax.Array, noise_std: jax.Array
    ) -> jax.Array:
        """Return log p(y) for y = A x0 + noise_std * n, (), by (5).

        Arguments as in `posterior`.
        """
        residual = self._residual(y, matrix)
        white, log_scales = self.whitened_evidence(residual, matrix, noise_std)
        constant = white.size * math.log(2 * math.pi)
        return -(constant + jnp.sum(log_scales) + jnp.sum(white**2)) / 2

    def whitened(
        self, columns: jax.Array, sigma: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return W u, W^T W = (C + sigma^2 I)^{-1}, and the logs of the eigenvalues.

        For values only: the derivative in C is not that of W at repeated eigenvalues.

        Args:
            columns: u, flattened differences of signals, (d, j).
            sigma: noise level, (); sigma^2 + eigenvalues > 0.

        Returns:
            W u, (d, j), and log(w + sigma^2), (d,).
        """
        variance = self.eigenvalues + sigma**2
        turned = _matmul(self.eigenvectors.T, columns)
        return turned / jnp.sqrt(variance)[:, None], jnp.log(variance)

    def whitened_evidence(
        self, residual: jax.Array, matrix: jax.Array, noise_std: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return W r, W^T W = M^{-1} of (5), and logs that add up to log det M.

        Args:
            residual: r, (m,) or in columns (m, j).
            matrix: A, (m, d), acting on the flattened signal.
            noise_std: s > 0, (), on the [-1, 1] scale.

        Returns:
            W r, of the shape of r, and the logs, (m,).
        """
        covariance = self._measurement_covariance(matrix, noise_std)
        lower = jnp.linalg.cholesky(covariance)
        white = jax.scipy.linalg.solve_triangular(lower, residual, lower=True)
        return white, 2 * jnp.log(jnp.diagonal(lower))

    def _conditioned(
        self, y: jax.Array, matrix: jax.Array, noise_std: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return S A^T (y - A m) / s^2, (d,), and S by solves with M, for derivatives.

        S is a difference here: for little noise its values are rounding.
        """
        spread = self._spread(_matmul(self.eigenvectors.T, matrix.T))  # C A^T
        solved = jnp.linalg.solve(
            self._measurement_covariance(matrix, noise_std),
            jnp.concatenate([spread.T, self._residual(y, matrix)[:, None]], axis=1),
        )
        gained = _matmul(spread, solved)
        return gained[:, -1], self.covariance() - gained[:, :-1]

    def _conditioned_factors(
        self, y: jax.Array, matrix: jax.Array, noise_std: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the mean, (*shape), and the eigensystem of S, for their values."""
        # C = root root^T
        root = self.eigenvectors * jnp.sqrt(self.eigenvalues)[None, :]
        whitened = _matmul(matrix, root) / noise_std
        precision = jnp.eye(root.shape[0], dtype=root.dtype)
        precision += _matmul(whitened.T, whitened)
        gain, basis = jnp.linalg.eigh(precision)  # gain >= 1
        # S = factor factor^T: positive semi-definite by construction.
        factor = _matmul(root, basis / jnp.sqrt(gain)[None, :])
        vectors, roots, _ = jnp.linalg.svd(factor)
        pull = _matmul(matrix.T, self._residual(y, matrix))
        shift = _matmul(factor, _matmul(factor.T, pull)) / noise_std**2
        return self.mean + shift.reshape(self.shape), roots**2, vectors

    def _measurement_covariance(
        self, matrix: jax.Array, noise_std: jax.Array
    ) -> jax.Array:
        """Return M of (5), (m, m)."""
        covariance = _matmul(
            matrix, self._spread(_matmul(self.eigenvectors.T, matrix.T))
        )
        return covariance + noise_std**2 * jnp.eye(
            matrix.shape[0], dtype=covariance.dtype
        )

    def _spread(self, turned: jax.Array) -> jax.Array:
        """Return C B, (d, k), for V^T B."""
        scaled = self.eigenvalues[:, None] * turned
        return _matmul(
            self.eigenvectors, scaled + tangent_product(self._remainder, turned)
        )

    @property
    def _remainder(self) -> jax.Array:
        if self.remainder is None:
            return jnp.zeros_like(self.eigenvectors)
        return self.remainder

    def _residual(self, y: jax.Array, matrix: jax.Array) -> jax.Array:
        return y - _matmul(matrix, self.mean.reshape(-1))

    def _coordinates(self, x: jax.Array) -> jax.Array:
        """V^T (x - m), (d,)."""
        centred = (x - self.mean).reshape(-1)
        return _matmul(self.eigenvectors.T, centred)

    def _signal(self, coordinates: jax.Array) -> jax.Array:
        """V coordinates, (*shape)."""
        flat = _matmul(self.eigenvectors, coordinates)
        return flat.reshape(self.shape)

    def _mapped(self, factors: jax.Array, slopes: jax.Array, z: jax.Array) -> jax.Array:
        """Return f(diag(w) + R) z, (d,), from f(w) and its divided differences."""
        return factors * z + tangent_product(slopes * self._remainder, z)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=HIGHEST)


def _on_host(array: Any) -> Any:
    """Return `array` in float64 on the host, a traced one as it is."""
    return np.asarray(array, dtype=np.float64) if is_known(array) else array


def _factorised(covariance: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the eigensystem and the remainder of a covariance (d, d)."""
    if not is_known(covariance):
        return psd_eigensystem(covariance)
    values, vectors = np.linalg.eigh(covariance)
    remainder = jnp.zeros(vectors.shape)
    return jnp.asarray(np.maximum(values, 0)), jnp.asarray(vectors), remainder


def _check_covariance(covariance: Any, size: int) -> None:
    if covariance.shape != (size, size):
        raise ValueError(
            f"covariance must have shape {(size, size)}, the square of the size of the "
            f"mean; got {covariance.shape}."
        )
    if not is_known(covariance):
        return
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
