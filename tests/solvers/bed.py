"""The linear-Gaussian test bed in plain NumPy: every map of a solver is a matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.diffusion import NoiseGrid
from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.priors import GaussianMixturePrior, GaussianPrior

SIZE, NUM_MEASURED = 4, 3
NOISE_STD = 0.4


class Bed(NamedTuple):
    """x0 ~ N(mean, covariance), y = matrix x0 + NOISE_STD * n."""

    mean: np.ndarray
    covariance: np.ndarray
    matrix: np.ndarray
    y: np.ndarray

    def prior(self) -> GaussianPrior:
        return GaussianPrior.from_moments(self.mean, self.covariance)

    def problem(self) -> Problem:
        return Problem(
            y=jnp.asarray(self.y),
            operator=DenseMatrix.from_array(jnp.asarray(self.matrix)),
            noise=GaussianNoise(std=NOISE_STD),
        )

    def jacobian(self, sigma: float) -> np.ndarray:
        """d D(x; sigma) / dx = C (C + sigma^2 I)^{-1}."""
        noisy = self.covariance + sigma**2 * np.eye(SIZE)
        return np.linalg.solve(noisy, self.covariance).T

    def denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        return self.mean + self.jacobian(sigma) @ (x - self.mean)


def bed() -> Bed:
    rng = np.random.default_rng(7)
    root = rng.normal(size=(SIZE, SIZE)) / 2
    return Bed(
        mean=rng.normal(size=SIZE) / 3,
        covariance=root @ root.T + 0.1 * np.eye(SIZE),
        matrix=rng.normal(size=(NUM_MEASURED, SIZE)),
        y=rng.normal(size=NUM_MEASURED),
    )


def mixture() -> GaussianMixturePrior:
    rng = np.random.default_rng(8)
    covariances = np.stack([0.2 * np.eye(SIZE), np.diag(np.linspace(0.1, 0.4, SIZE))])
    return GaussianMixturePrior.from_moments(
        [0.4, 0.6], rng.normal(size=(2, SIZE)) / 2, covariances
    )


def grid(num_steps: int = 5, sigma_max: float = 6.0) -> NoiseGrid:
    return NoiseGrid.from_sigmas(np.geomspace(sigma_max, 0.1, num_steps))


def draws(
    key: jax.Array, shape: tuple[int, ...], num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the initial noise and the noise of each step that `DPS` draws."""
    start_key, steps_key = jax.random.split(key)
    keys = jax.random.split(steps_key, num_steps)
    noise = jax.vmap(lambda k: jax.random.normal(k, shape, jnp.result_type(float)))
    return np.asarray(noise(start_key[None])[0]), np.asarray(noise(keys))
