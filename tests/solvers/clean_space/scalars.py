"""The two scalar problems for which the recursions of every method were computed."""

import itertools
import math
from contextlib import contextmanager
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.priors import GaussianPrior
from tests.affine import AffineMap, affine_map, propagate


class Scalar(NamedTuple):
    """x0 ~ N(mean, variance), y = gain x0 + noise_std n."""

    gain: float
    noise_std: float
    y: float
    mean: float = 0.3
    variance: float = 0.25

    def prior(self) -> GaussianPrior:
        return GaussianPrior.from_moments([self.mean], [[self.variance]])

    def problem(self) -> Problem:
        return Problem(
            y=jnp.asarray([self.y]),
            operator=DenseMatrix.from_array(jnp.asarray([[self.gain]])),
            noise=GaussianNoise(std=self.noise_std),
        )

    def posterior(self) -> tuple[float, float]:
        precision = 1 / self.variance + self.gain**2 / self.noise_std**2
        pull = self.mean / self.variance + self.gain * self.y / self.noise_std**2
        return pull / precision, 1 / precision


WEAK = Scalar(gain=0.7, noise_std=0.5, y=1.2)  # S1: weakly informative
SHARP = Scalar(gain=1.0, noise_std=0.05, y=0.8)  # S2: like an image


def correction_moments(solver, scalar) -> tuple[float, float]:
    """Mean and variance of the result of a `CorrectionSolver`, in closed form.

    Every step is an affine map of the state and its noise.
    """
    mean, covariance = _moments(solver, scalar.problem(), scalar.prior())
    return float(mean[0]), float(covariance[0, 0])


@jax.jit
def _moments(solver, problem, prior):
    key, size = jax.random.key(0), prior.shape[0]

    def move(now, next) -> AffineMap:
        def moved(x, z):
            x0_hat = solver.bound(prior.denoise(x, now.sigma))
            corrected = solver.correct(key, problem, x0_hat, now)
            return solver.renoise(x, x0_hat, corrected, (now, next), z)

        return affine_map(moved, prior.shape)

    maps = jax.vmap(move)(*solver.grid.pairs())
    variance = 1 + solver.grid.sigma[0] ** 2
    means, covariances = propagate(maps, jnp.zeros(size), variance * jnp.eye(size))
    end = affine_map(lambda x, z: solver.finalize(x, problem, prior), prior.shape)
    mean = jnp.matmul(end.matrix, means[-1], precision="highest") + end.offset
    spread = jnp.matmul(end.matrix, covariances[-1], precision="highest")
    return mean, jnp.matmul(spread, end.matrix.T, precision="highest")


NUM_KEYS = 128  # as many as the steps below make at most


@jax.jit
def sampler_moments(solver, problem, prior):
    """Mean and variance of the result of a sampler for a scalar, in closed form.

    Every step is an affine map of the state and its normal draws.
    """

    def affine(at) -> AffineMap:
        def moved(x, z):
            with _draws_are(z):
                found = solver.step(x, at, problem, prior)[0]
            return found, found

        x, z = jnp.zeros(1), jnp.zeros((NUM_KEYS, 1))
        derivatives = jax.jacfwd(moved, argnums=(0, 1), has_aux=True)
        (matrix, noise), offset = derivatives(x, z)
        return AffineMap(matrix, offset, noise.reshape(1, NUM_KEYS))

    carry, xs = solver.init(jax.random.key(0), problem, prior)
    variance = solver.start(jnp.ones(1), problem, prior) ** 2
    maps = jax.vmap(affine)(xs)
    means, covariances = propagate(maps, jnp.zeros_like(carry), variance[:, None])
    return means[-1, 0], covariances[-1, 0, 0]


@contextmanager
def _draws_are(z):
    """Let keys be numbers, each a new one, and the normal draw of key i be z[i].

    Keys that a loop splits anew in each of its turns would be the same in all.
    """
    numbers = itertools.count()

    def split(key, num=2):
        shape = num if isinstance(num, tuple) else (num,)
        new = [next(numbers) for _ in range(math.prod(shape))]
        return jnp.array(new).reshape(shape)

    def normal(key, shape, dtype):
        is_number = jnp.issubdtype(key.dtype, jnp.integer)
        return z[key if is_number else next(numbers)].reshape(shape).astype(dtype)

    with mock.patch.multiple(jax.random, normal=normal, split=split):
        yield
    assert next(numbers) <= NUM_KEYS


def reverse_process(law, key, grid, share) -> np.ndarray:
    """The unconditional process of a `CorrectionSolver` for a `Bed`, in NumPy.

    `share` is the part of the noise's standard deviation that is fresh.
    """
    start_key, steps_key = jax.random.split(key)
    sigma, size = np.asarray(grid.sigma), law.mean.size
    x = np.sqrt(1 + sigma[0] ** 2) * np.asarray(jax.random.normal(start_key, (size,)))
    keys = jax.random.split(steps_key, sigma.size - 1)
    for now, next, step_key in zip(sigma[:-1], sigma[1:], keys, strict=True):
        x0_hat = law.denoise(x, now)
        z = np.asarray(jax.random.normal(jax.random.split(step_key)[0], (size,)))
        kept = np.sqrt(1 - share**2) * (x - x0_hat) / now
        x = x0_hat + next * (kept + share * z)
    return x
