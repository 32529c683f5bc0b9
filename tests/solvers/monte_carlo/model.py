"""The law of a discretised Gaussian model, and posteriors under it, in plain NumPy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.diffusion import Estimate
from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.priors import GaussianPrior
from tests.solvers.bed import NOISE_STD, bed


class Law(NamedTuple):
    mean: np.ndarray  # (d,)
    covariance: np.ndarray  # (d, d)

    def given(self, matrix, y, noise) -> "Law":
        """Condition on y = matrix x + n with n of the covariance `noise`."""
        gain = self._gain(matrix, noise)
        mean = self.mean + gain @ (y - matrix @ self.mean)
        return Law(mean, self.covariance - gain @ matrix @ self.covariance)

    def evidence(self, matrix, y, noise_std) -> float:
        """Return E[exp(-misfit)] = p(y), the normaliser of the noise left out."""
        scaled = matrix @ self.covariance @ matrix.T / noise_std**2 + np.eye(y.size)
        residual = (y - matrix @ self.mean) / noise_std
        energy = residual @ np.linalg.solve(scaled, residual)
        return float(np.exp(-energy / 2) / np.sqrt(np.linalg.det(scaled)))

    def _gain(self, matrix, noise):
        observed = matrix @ self.covariance @ matrix.T + noise
        return np.linalg.solve(observed, matrix @ self.covariance).T


def step_of(prior, reverse, now, next):
    """Return slope, offset and variance of x' = slope x + offset + std z."""
    sigma = float(now.sigma)
    covariance = np.asarray(prior.covariance(), float)
    size = covariance.shape[0]
    shrink = np.linalg.solve(covariance + sigma**2 * np.eye(size), covariance).T
    on_x0, on_x = (float(c) for c in reverse.mean_coefficients(now, next))
    estimate = Estimate(x0_hat=jnp.zeros(size))
    std = float(reverse.noise_std(estimate, now, next))
    mean = np.asarray(prior.mean, float)
    offset = on_x0 * (mean - shrink @ mean)
    return on_x0 * shrink + on_x * np.eye(size), offset, std**2


def push(law, slope, offset, variance):
    covariance = slope @ law.covariance @ slope.T + variance * np.eye(offset.size)
    return Law(slope @ law.mean + offset, covariance)


def start(prior, grid):
    size = prior.mean.size
    sigma = float(grid.sigma[0])
    return Law(np.zeros(size), (1 + sigma**2) * np.eye(size))


def steps(prior, reverse, grid):
    """Return slope, offset and variance of every step."""
    return [
        step_of(prior, reverse, *jax.tree.map(lambda leaf, i=i: leaf[i], grid.pairs()))
        for i in range(grid.num_steps)
    ]


def model_law(prior, reverse, grid) -> Law:
    """Return the law of the clean end of the unconditional reverse process."""
    law = start(prior, grid)
    for step in steps(prior, reverse, grid):
        law = push(law, *step)
    return law


def scalar(mean, variance, gain, noise_std, y):
    """Return prior and problem of x ~ N(mean, variance), y = gain x + noise_std n."""
    prior = GaussianPrior.from_moments([mean], [[variance]])
    problem = Problem(
        y=jnp.asarray([y]),
        operator=DenseMatrix.from_array(jnp.asarray([[gain]])),
        noise=GaussianNoise(std=noise_std),
    )
    return prior, problem


def s1():
    """The scalar anchor: posterior mean 0.7651, variance 0.1678."""
    return scalar(0.3, 0.25, 0.7, 0.5, 1.2)


def moments(particles):
    """Return weighted mean and variance of scalar particles."""
    weights, x = np.asarray(particles.weights), np.asarray(particles.x)[:, 0]
    mean = weights @ x
    return mean, weights @ (x - mean) ** 2


def likely_bed():
    """The test bed with a measurement that its prior expects.

    Estimates of p(y) are useless where hardly a particle explains the measurement.
    """
    law = bed()
    return law._replace(
        y=law.matrix @ law.mean + NOISE_STD * np.asarray([1.0, -0.5, 1])
    )
