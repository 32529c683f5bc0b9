"""Tikhonov, sparsity and low rank against linear algebra and optimality conditions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import (
    DenseMatrix,
    GaussianNoise,
    Identity,
    LinearFunctionOperator,
    Mask,
    Problem,
    SpectralOperator,
)
from diffctl.priors import (
    GaussianPrior,
    NuclearNorm,
    Quadratic,
    Sparsity,
    TotalVariation,
)
from diffctl.solvers import ADMM, FISTA, HQS, ISTA, RED, ChambollePock, Tikhonov, solve
from diffctl.solvers.classical.data_term import squared_norm_of
from diffctl.solvers.classical.proximal_gradient import never
from tests.solvers.classical.energies import KEY, STD, Bench

SHAPE = (4, 4)
BENCH = Bench(SHAPE, 10)
SIZE = 16


@pytest.mark.usefixtures("x64")
def test_tikhonov_is_the_posterior_mean_of_a_gaussian():
    rng = np.random.default_rng(3)
    root, reference = rng.normal(size=(SIZE, SIZE)), rng.normal(size=SHAPE)
    weight = 0.4

    def product(x):
        return jnp.matmul(jnp.asarray(root), x.ravel(), precision="highest")

    prior = Quadratic.create(SHAPE, weight, reference=reference, linear_map=product)
    covariance = np.linalg.inv(weight * root.T @ root)
    covariance = (covariance + covariance.T) / 2
    law = GaussianPrior.from_moments(reference, covariance)
    expected = law.posterior(BENCH.y, BENCH.matrix, STD).mean
    found = solve(KEY, BENCH.problem(), prior, Tikhonov()).x
    # Condition number 2e4: measured 3e-12.
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_ridge_filters_singular_values_as_conjugate_gradients_do():
    prior = Quadratic.create(SHAPE, 0.4, reference=np.full(SHAPE, 0.3))
    problem = BENCH.problem()
    found = solve(KEY, problem, prior, Tikhonov(num_steps=1, num_inner=1)).x
    hidden = Identity(shape=problem.y.shape) @ problem.operator
    assert isinstance(problem.operator, SpectralOperator)
    assert not isinstance(hidden, SpectralOperator)
    expected = solve(
        KEY, dataclasses.replace(problem, operator=hidden), prior, Tikhonov()
    ).x
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_smoothness_fills_a_gap_by_the_harmonic_function():
    """Two pixels known almost exactly, differences penalised: a straight line."""
    mask = jnp.zeros(9).at[jnp.asarray([0, 8])].set(1.0)
    operator = Mask.from_array(mask, (9,))
    y = mask * jnp.linspace(-1, 1, 9)
    problem = Problem(y=y, operator=operator, noise=GaussianNoise(std=1e-4))
    prior = Quadratic.smoothness((9,), 1.0, axes=(0,))
    found = solve(KEY, problem, prior, Tikhonov(num_inner=30)).x
    np.testing.assert_allclose(found, np.linspace(-1, 1, 9), rtol=0, atol=1e-7)


@pytest.mark.usefixtures("x64")
def test_denoising_is_a_soft_threshold():
    y = np.random.default_rng(8).normal(size=SHAPE)
    operator, noise = Identity(shape=SHAPE), GaussianNoise(std=STD)
    problem = Problem(y=jnp.asarray(y), operator=operator, noise=noise)
    prior = Sparsity.wavelets(SHAPE, 5.0, num_levels=1)
    expected = prior.prox(jnp.asarray(y), STD**2)
    for solver in (ISTA(num_steps=10), ADMM(num_steps=100, penalty=20.0)):
        # One step of 0.98 leaves 2 % of the error: 1e-17 after ten.
        found = solve(KEY, problem, prior, solver).x
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_measured", [10, 24])
def test_sparse_solutions_satisfy_their_optimality_conditions(num_measured):
    """|Psi grad f| <= weight, with equality and opposite sign on the support."""
    bench, weight = Bench(SHAPE, num_measured), 6.0
    prior = Sparsity.cosines(SHAPE, weight)
    for solver in (ISTA(num_steps=10000), FISTA(num_steps=1000)):
        x = solve(KEY, bench.problem(), prior, solver).x
        z = np.asarray(prior.transform.forward(x))
        slope = bench.gradient(x).reshape(SHAPE)
        slope = np.asarray(prior.transform.forward(jnp.asarray(slope)))
        detail = np.asarray(prior.transform.detail) == 1
        support = detail & (np.abs(z) > 1e-10)
        assert 0 < support.sum() < detail.sum()
        np.testing.assert_allclose(
            slope[support], -weight * np.sign(z[support]), rtol=1e-7
        )
        assert np.max(np.abs(slope[detail & ~support])) <= weight * (1 + 1e-7)
        np.testing.assert_allclose(slope[~detail], 0, atol=1e-6)


def _iterate(carry, trace):
    return carry[0]


@pytest.mark.usefixtures("x64")
def test_fista_is_as_fast_as_its_theorem_and_restarts_help():
    prior = Sparsity.cosines(SHAPE, 6.0)
    problem = BENCH.problem()
    plain = FISTA(num_steps=400, restart=never)
    least = np.asarray(solve(KEY, problem, prior, FISTA(num_steps=3000)).x)
    excess = {}
    for name, solver in (("plain", plain), ("restart", FISTA(num_steps=400))):
        states = solve(KEY, problem, prior, solver, record=_iterate).trace
        energies = BENCH.energies([least, *states], prior)
        excess[name] = energies[1:] - energies[0]
    curvature = np.linalg.norm(BENCH.matrix, 2) ** 2 / STD**2 / 0.98
    k = np.arange(1, 401)
    bound = 2 * curvature * np.sum(least**2) / (k + 1) ** 2
    assert np.all(excess["plain"] <= bound)
    assert excess["restart"][-1] < excess["plain"][-1]


@pytest.mark.usefixtures("x64")
def test_soft_impute_completes_a_matrix():
    """G = -grad f: |G|_2 <= weight and <G, X> = weight |X|_*."""
    rng = np.random.default_rng(5)
    shape, weight = (6, 5), 4.0
    truth = np.outer(rng.normal(size=6), rng.normal(size=5))
    mask = (rng.uniform(size=shape) < 0.8).astype(float)
    operator = Mask.from_array(jnp.asarray(mask), shape)
    y = jnp.asarray(mask * (truth + 0.1 * rng.normal(size=shape)))
    problem = Problem(y=y, operator=operator, noise=GaussianNoise(std=STD))
    prior = NuclearNorm.create(shape, weight)
    x = np.asarray(solve(KEY, problem, prior, FISTA(num_steps=1500)).x)
    g = mask * (np.asarray(y) - x) / STD**2
    assert np.linalg.matrix_rank(x, tol=1e-8) < 3
    assert np.linalg.norm(g, 2) <= weight * (1 + 1e-8)
    np.testing.assert_allclose(
        np.sum(g * x), weight * np.linalg.norm(x, "nuc"), rtol=1e-8
    )


def _product(x, matrix):
    return jnp.matmul(matrix, x.ravel(), precision="highest")


@pytest.mark.usefixtures("x64")
def test_norms_of_operators_with_and_without_singular_system():
    matrix = jnp.asarray(BENCH.matrix)
    function = LinearFunctionOperator.create(_product, SHAPE, matrix)
    for operator in (DenseMatrix.from_array(matrix, SHAPE), function):
        found = jax.jit(squared_norm_of)(KEY, operator, jnp.zeros(SHAPE))
        expected = np.linalg.norm(BENCH.matrix, 2) ** 2
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    problem = dataclasses.replace(BENCH.problem(), operator=function)
    prior = Sparsity.cosines(SHAPE, 6.0)
    solver = FISTA(num_steps=500)
    pair = [solve(KEY, p, prior, solver).x for p in (problem, BENCH.problem())]
    np.testing.assert_allclose(*pair, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("solver", "prior"),
    [
        (ADMM(num_steps=5), TotalVariation(weight=2.0, shape=SHAPE)),
        (HQS(num_steps=5), TotalVariation(weight=2.0, shape=SHAPE, num_inner=5)),
        (RED(num_steps=5), TotalVariation(weight=2.0, shape=SHAPE, num_inner=5)),
        (ChambollePock(num_steps=5), TotalVariation(weight=2.0, shape=SHAPE)),
        (FISTA(num_steps=5), TotalVariation(weight=2.0, shape=SHAPE, num_inner=5)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_units_of_the_measurement_do_not_matter(solver, prior):
    """(A, y, s_y) -> c (A, y, s_y) changes neither weights, penalties nor results."""
    one, many = (
        jax.jit(lambda p: solve(KEY, p, prior, solver).x)(BENCH.problem(c))
        for c in (1.0, 7.0)
    )
    np.testing.assert_allclose(one, many, rtol=1e-9, atol=1e-10)
    assert np.max(np.abs(one)) > 0.1
