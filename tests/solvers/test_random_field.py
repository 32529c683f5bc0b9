"""TMPD on the Gaussian random field of its authors, against the exact posterior.

A field on n x n points of [-5, 5]^2 with Matern-5/2 covariance is observed at n^2 / 64
of them, with noise of standard deviation 0.1. Steps are affine: the law of the result
follows without a sample.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import Ancestral, NoiseGrid
from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.priors import GaussianPrior
from diffctl.solvers import TMPD, FullMoment
from tests.affine import affine_map, propagate
from tests.solvers.monte_carlo.model import Law, model_law
from tests.tolerances import EXACT64

KEY = jax.random.key(3)
NOISE_STD = 0.1


def _matern(side, length=2.0):
    """(1 + r + r^2 / 3) exp(-r) with r = sqrt(5) distance / length."""
    axis = np.linspace(-5, 5, side)
    points = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    distance = np.linalg.norm(points[:, None] - points[None, :], axis=-1)
    r = np.sqrt(5) * distance / length
    return (1 + r + r**2 / 3) * np.exp(-r)


class Field(NamedTuple):
    prior: GaussianPrior
    problem: Problem
    posterior: Law


def _field(side):
    """A field, its noisy observations, and its posterior by dense algebra."""
    rng, covariance = np.random.default_rng(21), _matern(side)
    size = side**2
    matrix = np.eye(size)[rng.choice(size, size // 64, replace=False)]
    truth = np.linalg.cholesky(covariance) @ rng.normal(size=size)
    y = matrix @ truth + NOISE_STD * rng.normal(size=size // 64)
    problem = Problem(
        y=jnp.asarray(y),
        operator=DenseMatrix.from_array(jnp.asarray(matrix)),
        noise=GaussianNoise(std=NOISE_STD),
    )
    prior = Law(np.zeros(size), covariance)
    return Field(
        prior=GaussianPrior.from_moments(*prior),
        problem=problem,
        posterior=prior.given(matrix, y, NOISE_STD**2 * np.eye(y.size)),
    )


@jax.jit
def _law(solver, problem, prior):
    """Mean and covariance, pushed through the solver's own steps."""
    size = prior.shape[0]

    def push(moments, levels):
        now, next = levels

        def step(x, z):
            moved, _ = solver.step(x, (now, next, KEY), problem, prior)
            drawn = jax.random.normal(jax.random.split(KEY)[0], (size,), x.dtype)
            return moved + solver.reverse.noise_std(None, now, next) * (z - drawn)

        one = jax.tree.map(lambda leaf: leaf[None], affine_map(step, (size,)))
        return jax.tree.map(lambda leaf: leaf[0], propagate(one, *moments)), None

    variance = 1 + solver.grid.sigma[0] ** 2
    first = jnp.zeros(size), variance * jnp.eye(size)
    return jax.lax.scan(push, first, solver.grid.pairs())[0]


def _distance(a: Law, b: Law) -> float:
    """W2 between Gaussians.

    W2^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^{1/2} C_b C_a^{1/2})^{1/2})
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    overlap = 2 * np.sum(np.sqrt(np.maximum(cross, 0)))
    spread = np.trace(a.covariance) + np.trace(b.covariance) - overlap
    return float(np.sqrt(np.sum((a.mean - b.mean) ** 2) + spread))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("side", [12, pytest.param(32, marks=pytest.mark.slow)])
def test_the_law_of_the_result(side):
    """That of the posterior's own reverse process, which tends to the posterior.

    At a distance of 14 % of the posterior's spread for 40 levels, of half as much for
    twice as many.
    """
    field = _field(side)
    levels = NoiseGrid.from_sigmas(np.geomspace(200.0, 1e-3, 40))
    solver = TMPD(grid=levels, reverse=Ancestral(), moment=FullMoment())
    found = Law(*map(np.asarray, _law(solver, field.problem, field.prior)))
    exact = GaussianPrior.from_moments(*field.posterior)
    expected = model_law(exact, solver.reverse, levels)
    np.testing.assert_allclose(found.mean, expected.mean, **EXACT64)
    np.testing.assert_allclose(found.covariance, expected.covariance, **EXACT64)
    spread = np.sqrt(np.trace(field.posterior.covariance))
    np.testing.assert_allclose(
        _distance(field.posterior, found) / spread, 0.138, atol=0.001
    )
