"""Variational laws against the closest ones in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import Descent
from diffctl.operators import GaussianNoise
from diffctl.priors import SmoothedPrior
from diffctl.solvers import (
    AntitheticDraws,
    CubaturePoints,
    FlowFamily,
    FullCovariance,
    MeanField,
    VariationalPosterior,
    solve,
)
from tests.solvers.bed import NOISE_STD, SIZE, bed
from tests.solvers.generative.models import (
    AffineFlow,
    generator,
    posterior,
    quadratic,
    two_modes,
)
from tests.tolerances import EXACT64

KEY = jax.random.key(23)
DESCENT = Descent.gradient(0.01, momentum=0.8)


def _law(carry, trace):
    return carry[0]


def _fit(solver, problem, prior):
    """Return the solution and the parameters of the law at the end."""
    solution = solve(KEY, problem, prior, solver, record=_law)
    return solution, jax.tree.map(lambda leaf: leaf[-1], solution.trace)


@pytest.mark.usefixtures("x64")
def test_mean_field_has_the_exact_mean_and_too_little_variance():
    """Variances 1 / (S^{-1})_ii, with S the covariance of the posterior."""
    law = bed()
    solver = VariationalPosterior(
        num_steps=1500, expectation=CubaturePoints(), descent=DESCENT
    )
    solution, fitted = _fit(solver, law.problem(), quadratic(law))
    mean, covariance = posterior(law, NOISE_STD, law.mean, law.covariance)
    np.testing.assert_allclose(solution.x, mean, **EXACT64)
    variance = 1 / np.diag(np.linalg.inv(covariance))
    np.testing.assert_allclose(np.exp(2 * fitted.log_std), variance, **EXACT64)
    assert np.all(variance < 0.9 * np.diag(covariance))


@pytest.mark.usefixtures("x64")
def test_a_full_covariance_is_exact():
    law = bed()
    solver = VariationalPosterior(
        num_steps=2000,
        family=FullCovariance(),
        expectation=CubaturePoints(),
        descent=DESCENT,
    )
    solution, fitted = _fit(solver, law.problem(), quadratic(law))
    mean, covariance = posterior(law, NOISE_STD, law.mean, law.covariance)
    root = fitted.root()
    np.testing.assert_allclose(solution.x, mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(root @ root.T, covariance, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_an_affine_flow_is_exact_too():
    law = bed()
    solver = VariationalPosterior(
        num_steps=2000,
        family=FlowFamily(flow=generator(AffineFlow, latent=SIZE)),
        expectation=CubaturePoints(),
        descent=DESCENT,
    )
    solution, fitted = _fit(solver, law.problem(), quadratic(law))
    mean, covariance = posterior(law, NOISE_STD, law.mean, law.covariance)
    np.testing.assert_allclose(solution.x, mean, rtol=1e-8, atol=1e-10)
    root = fitted.weights
    np.testing.assert_allclose(root @ root.T, covariance, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_the_score_of_a_denoiser_stands_in_for_a_density():
    """With the law of x0 + sigma n, N(m, C + sigma^2 I), as prior."""
    law, sigma = bed(), 0.3
    solver = VariationalPosterior(
        num_steps=1500, expectation=CubaturePoints(), descent=DESCENT
    )
    prior = SmoothedPrior(prior=law.prior(), sigma=sigma)
    solution, _ = _fit(solver, law.problem(), prior)
    smooth = law.covariance + sigma**2 * np.eye(SIZE)
    mean, _ = posterior(law, NOISE_STD, law.mean, smooth)
    np.testing.assert_allclose(solution.x, mean, **EXACT64)
    assert solution.stats.nfe_fwd == 1500 * 2 * SIZE
    assert solution.stats.nvjp == 0


@pytest.mark.usefixtures("x64")
def test_random_nodes_are_unbiased():
    """The gradient at the best law is zero: n = 20000 pairs, k = 4."""
    law, num = bed(), 20_000
    prior, problem = quadratic(law), law.problem()
    mean, covariance = posterior(law, NOISE_STD, law.mean, law.covariance)
    precision = np.linalg.inv(covariance)
    best = MeanField().init(jnp.asarray(mean))
    best = best._replace(log_std=jnp.asarray(-np.log(np.diag(precision)) / 2))
    draws = AntitheticDraws(num_pairs=num)
    solver = VariationalPosterior(
        num_steps=1, expectation=draws, descent=Descent.gradient(1.0)
    )
    carry = (best, solver.descent.init(best))
    moved, _ = solver.step(carry, KEY, problem, prior)[0]
    np.testing.assert_allclose(moved.mean, mean, **EXACT64)
    # The gradient of log_std is e_i s_i (P s e)_i - 1; its variance by Isserlis.
    scaled = precision / np.sqrt(np.outer(np.diag(precision), np.diag(precision)))
    spread = np.sqrt(np.sum(scaled**2, axis=1) + 1)
    change = np.abs(np.asarray(moved.log_std - best.log_std))
    assert np.all(change < 4 * spread / np.sqrt(num))
    assert np.max(change) > 0


@pytest.mark.usefixtures("x64")
def test_reverse_kl_seeks_the_mode_that_it_starts_near():
    law, prior = bed(), two_modes()
    problem = dataclasses.replace(law.problem(), noise=GaussianNoise(std=3.0))
    exact = prior.mixture.posterior(law.y, jnp.asarray(law.matrix), 3.0)
    for mode, sign in enumerate((1.0, -1.0)):

        def start(key, problem, prior, sign=sign):
            return sign * jnp.ones(SIZE)

        solver = VariationalPosterior(
            num_steps=400,
            expectation=CubaturePoints(),
            descent=DESCENT,
            start_from=start,
        )
        solution, fitted = _fit(solver, problem, prior)
        part = jax.tree.map(lambda leaf, mode=mode: leaf[mode], exact.components)
        variance = 1 / np.diag(np.linalg.inv(part.covariance()))
        # The other mode is ten standard deviations off.
        np.testing.assert_allclose(solution.x, part.mean, rtol=1e-6)
        np.testing.assert_allclose(np.exp(2 * fitted.log_std), variance, rtol=1e-6)
