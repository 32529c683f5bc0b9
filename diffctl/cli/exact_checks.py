"""Checks against closed forms, computed independently with NumPy.

The bed is a Gaussian prior N(m, C) in a few dimensions and y = A x0 + s n, where
everything is linear: with K = C (C + sigma^2 I)^{-1} the denoiser is
D(x) = m + K (x - m), and every reverse step is an affine map.
"""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.cli.task_table import TASKS
from diffctl.cli.tasks import Restoration
from diffctl.control import ExactFactors, LineSearch, LowRankBackward
from diffctl.control import TrajectoryOptimizer as Optimizer
from diffctl.diffusion import Ancestral, Euler, Heun, geometric, sample
from diffctl.operators import DenseMatrix, GaussianNoise, LinearOperator, Problem
from diffctl.priors import GaussianPrior
from diffctl.solvers import DOC, DPS, likelihood, solve
from diffctl.solvers.dps import exact_unit
from diffctl.solvers.weighting import uniform_weight

_SIZE, _OBSERVED, _NOISE_STD, _WEIGHT = 4, 2, 0.3, 0.2
_STEPS, _SIGMA_MIN, _SIGMA_MAX = 5, 0.1, 4.0
_SAMPLES = 4096


class Finding(NamedTuple):
    """A measured error with its bound; `unit` says what is measured."""

    error: float
    bound: float
    unit: str


class _Bed(NamedTuple):
    mean: np.ndarray
    covariance: np.ndarray
    matrix: np.ndarray
    y: np.ndarray

    def prior(self) -> GaussianPrior:
        return GaussianPrior.from_moments(self.mean, self.covariance)

    def posterior(self) -> GaussianPrior:
        y, matrix = jnp.asarray(self.y), jnp.asarray(self.matrix)
        return self.prior().posterior(y, matrix, jnp.asarray(_NOISE_STD))

    def problem(self) -> Problem:
        return Problem(
            y=jnp.asarray(self.y),
            operator=DenseMatrix.from_array(jnp.asarray(self.matrix)),
            noise=GaussianNoise(std=_NOISE_STD),
        )

    def shrinkage(self, sigma: float) -> np.ndarray:
        """Return K."""
        total = self.covariance + sigma**2 * np.eye(_SIZE)
        return np.linalg.solve(total, self.covariance).T

    def denoise(self, x: np.ndarray, sigma: float) -> np.ndarray:
        return self.mean + self.shrinkage(sigma) @ (x - self.mean)

    def pull(self, x0: np.ndarray) -> np.ndarray:
        """Return the gradient of -log p(y | x0)."""
        return self.matrix.T @ (self.matrix @ x0 - self.y) / _NOISE_STD**2


@cache
def _bed() -> _Bed:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(_SIZE, _SIZE)) / 2
    return _Bed(
        mean=rng.normal(size=_SIZE) / 2,
        covariance=root @ root.T + 0.05 * np.eye(_SIZE),
        matrix=rng.normal(size=(_OBSERVED, _SIZE)),
        y=rng.normal(size=_OBSERVED),
    )


def _levels() -> np.ndarray:
    return np.append(np.geomspace(_SIGMA_MAX, _SIGMA_MIN, _STEPS), 0.0)


def doc_is_lqr() -> Finding:
    """One iteration of DOC is x_free + S A^T (s^2 I + A S A^T)^{-1} (y - A x_free).

    S = sum_i B_i B_i^T / w, with B_i the derivative of the end by control i.
    """
    bed = _bed()
    solver = DOC(
        grid=geometric(_STEPS, _SIGMA_MIN, _SIGMA_MAX),
        num_steps=1,
        optimizer=Optimizer(
            backward=LowRankBackward(terminal=ExactFactors()),
            update=LineSearch(damping=0.0),
        ),
        control_weight=_WEIGHT,
        weighting=uniform_weight,
        start_scale=1.0,
    )
    key = jax.random.key(1)
    carry, _ = solver.init(key, bed.problem(), bed.prior())
    free = np.asarray(carry.iteration.trajectory.states[0])
    levels, to_end = _levels(), np.eye(_SIZE)
    maps = []
    for now, next_ in pairwise(levels):
        share, unit = next_ / now, np.sqrt(1 + now**2)
        x = share * free * unit + (1 - share) * bed.denoise(unit * free, now)
        free = x / np.sqrt(1 + next_**2)
        slope = share * np.eye(_SIZE) + (1 - share) * bed.shrinkage(now)
        maps.append(slope * unit / np.sqrt(1 + next_**2))
    gramian = np.zeros((_SIZE, _SIZE))
    for slope in reversed(maps):
        to_end = to_end @ slope
        gramian += to_end @ to_end.T / _WEIGHT
    middle = bed.matrix @ gramian @ bed.matrix.T + _NOISE_STD**2 * np.eye(_OBSERVED)
    gap = np.linalg.solve(middle, bed.y - bed.matrix @ free)
    expected = free + gramian @ bed.matrix.T @ gap
    found = solve(key, bed.problem(), bed.prior(), solver).x
    return _relative(found, expected, 1e-9)


def dps_is_affine() -> Finding:
    """DPS with the squared residual is the affine map x <- x' - c K^T A^T r / s^2."""
    bed = _bed()
    solver = DPS(
        grid=geometric(_STEPS, _SIGMA_MIN, _SIGMA_MAX),
        reverse=Euler(),
        guidance_scale=0.5,
        cost=likelihood,
        unit=exact_unit,
    )
    key = jax.random.key(2)
    x = np.asarray(solver.init(key, bed.problem(), bed.prior())[0])
    levels = _levels()
    for now, next_ in pairwise(levels):
        share, x0_hat = next_ / now, bed.denoise(x, now)
        gradient = bed.shrinkage(now).T @ bed.pull(x0_hat)
        step = share * x + (1 - share) * x0_hat
        x = step - 0.5 * now**2 * (1 - share) * gradient
    found = solve(key, bed.problem(), bed.prior(), solver).x
    return _relative(found, x, 1e-9)


def heun_follows_the_flow() -> Finding:
    """Heun with 200 steps ends where the exact flow of the Gaussian does."""
    bed, grid = _bed(), geometric(200, 1e-3, _SIGMA_MAX)
    prior, key = bed.prior(), jax.random.key(3)
    found = sample(key, prior, grid, Heun())
    start = grid.sigma[0] * jax.random.normal(
        jax.random.split(key)[0], prior.shape, grid.sigma.dtype
    )
    spread, vectors = np.linalg.eigh(bed.covariance)
    factors = np.sqrt(spread / (spread + _SIGMA_MAX**2))
    centred = np.asarray(start) - bed.mean
    expected = bed.mean + vectors @ (factors * (vectors.T @ centred))
    return _relative(found, expected, 1e-3)


def ancestral_moments() -> Finding:
    """Mean and covariance of samples against the recursion that they obey exactly."""
    bed = _bed()
    mean, covariance = np.zeros(_SIZE), _SIGMA_MAX**2 * np.eye(_SIZE)
    levels = _levels()
    for now, next_ in pairwise(levels):
        share = (next_ / now) ** 2
        slope = share * np.eye(_SIZE) + (1 - share) * bed.shrinkage(now)
        mean = share * mean + (1 - share) * bed.denoise(mean, now)
        fresh = next_**2 * (1 - share) * np.eye(_SIZE)
        covariance = slope @ covariance @ slope.T + fresh
    grid, prior = geometric(_STEPS, _SIGMA_MIN, _SIGMA_MAX), bed.prior()
    keys = jax.random.split(jax.random.key(4), _SAMPLES)
    draw = jax.jit(jax.vmap(lambda key: sample(key, prior, grid, Ancestral())))
    found = np.asarray(draw(keys))
    variances = np.diag(covariance)
    mean_errors = np.abs(found.mean(0) - mean) / np.sqrt(variances / _SAMPLES)
    spread = np.sqrt((np.outer(variances, variances) + covariance**2) / _SAMPLES)
    errors = np.abs(np.cov(found.T) - covariance) / spread
    worst = max(mean_errors.max(), errors.max())
    return Finding(float(worst), 4.5, f"standard errors, {_SAMPLES} samples")


def gaussian_posterior() -> Finding:
    """The mean solves (C^{-1} + A^T A / s^2) (x - m) = A^T (y - A m) / s^2."""
    bed = _bed()
    posterior = bed.posterior()
    precision = np.linalg.inv(bed.covariance)
    precision = precision + bed.matrix.T @ bed.matrix / _NOISE_STD**2
    expected = bed.mean - np.linalg.solve(precision, bed.pull(bed.mean))
    return _relative(posterior.mean, expected, 1e-10)


def conditional_score() -> Finding:
    """Score of the posterior = score of the prior + grad log p(y | x_sigma)."""
    bed, sigma = _bed(), 0.7
    x = np.linspace(-1, 1, _SIZE)
    found = bed.posterior().score(jnp.asarray(x), jnp.asarray(sigma))
    shrink = bed.shrinkage(sigma)
    spread = sigma**2 * bed.matrix @ shrink @ bed.matrix.T
    spread = spread + _NOISE_STD**2 * np.eye(_OBSERVED)
    x0_hat = bed.denoise(x, sigma)
    gap = np.linalg.solve(spread, bed.y - bed.matrix @ x0_hat)
    expected = (x0_hat - x) / sigma**2 + shrink.T @ bed.matrix.T @ gap
    return _relative(found, expected, 1e-10)


def task_adjoints() -> Finding:
    """|<A x, y> - <x, A^T y>| / (|A x| |y|), the worst over the restoration tasks."""
    shape, worst = (16, 16, 1), 0.0
    for task in TASKS.values():
        if not isinstance(task, Restoration):
            continue
        operator = task.operator(shape, jax.random.key(5))
        worst = max(worst, float(_dot_gap(operator, jax.random.key(6))))
    return Finding(worst, 1e-12, "relative")


@jax.jit
def _dot_gap(operator: LinearOperator, key: jax.Array) -> jax.Array:
    x_key, y_key = jax.random.split(key)
    x = jax.random.normal(x_key, operator.shape)
    clean = operator(x)
    y = jax.random.normal(y_key, clean.shape)
    gap = jnp.vdot(clean, y) - jnp.vdot(x, operator.adjoint(y))
    return jnp.abs(gap) / (jnp.linalg.norm(clean) * jnp.linalg.norm(y))


def _relative(found: jax.Array, expected: np.ndarray, bound: float) -> Finding:
    gap = np.linalg.norm(np.asarray(found) - expected)
    return Finding(float(gap / np.linalg.norm(expected)), bound, "relative")
