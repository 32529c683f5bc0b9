"""Small problems whose minima are known, and priors made for tests."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import lsq_linear

from diffctl.core import ProximalPrior
from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.pytree import pytree_dataclass

KEY = jax.random.key(4)
STD = 0.3


@pytree_dataclass
class LinearDenoiser(ProximalPrior):
    """D(x) = W x at every level."""

    matrix: jax.Array
    shape: tuple[int, ...] = (4,)

    def prox(self, x, step):
        return jnp.matmul(self.matrix, x, precision="highest")


@pytree_dataclass
class Unsplit(ProximalPrior):
    """A regulariser of which solvers see the proximal map alone."""

    inner: ProximalPrior

    @property
    def shape(self):
        return self.inner.shape

    def prox(self, x, step):
        return self.inner.prox(x, step)


class Bench:
    """y = matrix x0 + STD n for a signal of any shape."""

    def __init__(self, shape: tuple[int, ...], num_measured: int, seed: int = 2):
        rng = np.random.default_rng(seed)
        self.shape = shape
        self.matrix = rng.normal(size=(num_measured, int(np.prod(shape))))
        self.y = rng.normal(size=num_measured)

    def problem(self, factor: float = 1.0) -> Problem:
        """Return the problem with everything measured multiplied by a factor."""
        operator = DenseMatrix.from_array(jnp.asarray(factor * self.matrix), self.shape)
        y = jnp.asarray(factor * self.y)
        return Problem(y=y, operator=operator, noise=GaussianNoise(std=factor * STD))

    def gradient(self, x: Any) -> np.ndarray:
        """Return the gradient of |A x - y|^2 / (2 STD^2), flat."""
        residual = self.matrix @ np.ravel(x) - self.y
        return self.matrix.T @ residual / STD**2

    def energies(self, signals: Any, prior: Any) -> np.ndarray:
        """Return f + R of a stack of signals, (n,)."""
        signals = jnp.asarray(np.asarray(signals))
        flat = np.asarray(signals).reshape(len(signals), -1)
        residuals = flat @ self.matrix.T - self.y
        fit = np.sum(residuals**2, axis=1) / (2 * STD**2)
        return fit + np.asarray(jax.jit(jax.vmap(prior.energy))(signals))

    def least_total_variation(self, prior: Any) -> np.ndarray:
        """Return argmin f + weight |K x|_1 from its dual, a least-squares in a box.

        H = A^T A / STD^2, b = A^T y / STD^2, x = H^{-1} (b - K^T z), |z| <= weight.
        """
        size = self.matrix.shape[1]
        basis = jnp.eye(size).reshape(size, *self.shape)
        k = np.asarray(jax.vmap(prior.analysis)(basis)).reshape(size, -1).T
        hessian = self.matrix.T @ self.matrix / STD**2
        root = np.linalg.cholesky(np.linalg.inv(hessian))
        b = self.matrix.T @ self.y / STD**2
        box = (-prior.weight, prior.weight)
        z = lsq_linear(root.T @ k.T, root.T @ b, box, method="bvls", tol=1e-14).x
        return np.linalg.solve(hessian, b - k.T @ z).reshape(self.shape)
