"""Weights by the discrepancy and by cross-validation against dense matrices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

from diffctl.operators import (
    GaussianNoise,
    LinearFunctionOperator,
    Mask,
    Problem,
    simulate,
)
from diffctl.priors import Quadratic, TotalVariation
from diffctl.solvers import (
    Tikhonov,
    tune_weight_by_cross_validation,
    tune_weight_by_discrepancy,
)
from diffctl.solvers.classical.weights import cross_validation_score, influence_trace
from tests.solvers.classical.energies import KEY, STD, Bench
from tests.tolerances import FD64, stat

SHAPE = (3, 2)
BENCH = Bench(SHAPE, 10)
REFERENCE = np.arange(6.0).reshape(SHAPE) / 10
ROOT = np.random.default_rng(9).normal(size=(7, 6))


def _product(x):
    return jnp.matmul(jnp.asarray(ROOT, x.dtype), x.ravel(), precision="highest")


def _prior(weight=1.0):
    return Quadratic.create(SHAPE, weight, reference=REFERENCE, linear_map=_product)


def _influence(weight):
    inner = BENCH.matrix.T @ BENCH.matrix / STD**2 + weight * ROOT.T @ ROOT
    return BENCH.matrix @ np.linalg.solve(inner, BENCH.matrix.T) / STD**2


def _misfit(weight):
    """A x(w) - y is (H - I) (y - A x_ref)."""
    offset = BENCH.y - BENCH.matrix @ REFERENCE.ravel()
    residual = offset - _influence(weight) @ offset
    return np.sum(residual**2) / (len(BENCH.y) * STD**2)


@pytest.mark.usefixtures("x64")
def test_the_discrepancy_is_met():
    noise = GaussianNoise(std=2.5 * STD)
    problem = dataclasses.replace(BENCH.problem(), noise=noise)
    found = tune_weight_by_discrepancy(problem, _prior())
    # Weights scale with s_y^2, misfits with its inverse.
    log_weight = brentq(lambda t: _misfit(np.exp(t) * 2.5**2) - 2.5**2, -15, 15)
    np.testing.assert_allclose(found.weight, np.exp(log_weight), **FD64)


@pytest.mark.usefixtures("x64")
def test_the_trace_is_that_of_the_influence_matrix():
    """v^T H v has variance 2 sum_{i != j} H_ij^2; n = 4000, k = 4."""
    influence = _influence(3.0)
    outside = influence - np.diag(np.diag(influence))
    found = influence_trace(KEY, BENCH.problem(), _prior(3.0), Tikhonov(), 4000)
    error = abs(found - np.trace(influence))
    assert error < stat(4000) * np.sqrt(2 * np.sum(outside**2))
    assert error > 1e-6


@pytest.mark.usefixtures("x64")
def test_cross_validation_chooses_the_least_score():
    problem, weights = BENCH.problem(), np.logspace(-3, 3, 13)
    expected = []
    for weight in weights:
        free = 1 - np.trace(_influence(weight)) / len(BENCH.y)
        expected.append(_misfit(weight) / free**2)
    best = int(np.argmin(expected))
    assert 0 < best < len(weights) - 1
    found = tune_weight_by_cross_validation(
        KEY, problem, _prior(), jnp.asarray(weights), num_probes=2000
    )
    assert found.weight == pytest.approx(weights[best])
    score = cross_validation_score(KEY, problem, found, Tikhonov(), 2000)
    # The trace scatters by 1 % with 2000 probes, and counts about twice.
    assert score == pytest.approx(expected[best], rel=0.05)


def test_complex_measurements_and_masks_count_what_was_measured():
    """Ridge with A^T A = 1 on what is seen: tr H = seen / (1 + w s_y^2), exactly."""
    signal = jax.random.normal(KEY, (4, 4))
    fourier = LinearFunctionOperator.create(
        lambda x: jnp.fft.fft2(x, norm="ortho"), (4, 4)
    )
    mask = Mask.from_array(jnp.ones((4, 4)).at[0].set(0), (4, 4))
    noise, prior = GaussianNoise(std=0.5), Quadratic.create((4, 4), 2.0)
    for operator, seen in ((fourier, None), (mask, 12)):
        y = simulate(KEY, operator, noise, signal)
        problem = Problem(y=y, operator=operator, noise=noise)
        found = influence_trace(KEY, problem, prior, Tikhonov(), 400)
        if seen is not None:
            assert found == pytest.approx(seen / 1.5, rel=1e-5)
        else:
            # v^T H v = |projection of v|^2 / 1.5 with a projection of rank 16 of 32.
            assert found == pytest.approx(16 / 1.5, abs=stat(400) * np.sqrt(16) / 1.5)


def test_noise_that_no_weight_explains_is_refused():
    problem = BENCH.problem()
    for std, words in ((1e-3, "stronger"), (100.0, "weaker")):
        wrong = dataclasses.replace(problem, noise=GaussianNoise(std=std))
        with pytest.raises(ValueError, match=words):
            tune_weight_by_discrepancy(wrong, _prior())


def test_what_has_no_weight_to_tune_is_refused():
    problem, weights = BENCH.problem(), jnp.ones(3)
    with pytest.raises(TypeError, match="needs a QuadraticPrior"):
        tune_weight_by_discrepancy(problem, TotalVariation(weight=1.0, shape=SHAPE))
    for wrong in (0 * weights, jnp.ones((2, 2)), jnp.ones(0)):
        with pytest.raises(ValueError, match="positive numbers in a row"):
            tune_weight_by_cross_validation(KEY, problem, _prior(), wrong)


def test_searches_without_room_are_refused():
    problem, prior = BENCH.problem(), _prior()
    for least, most in ((0.0, 1.0), (2.0, 1.0), (1.0, np.inf), (np.nan, 1.0)):
        with pytest.raises(ValueError, match="expected 0 < least < most"):
            tune_weight_by_discrepancy(problem, prior, least=least, most=most)
    with pytest.raises(ValueError, match="num_probes of tune_weight_by_cross"):
        tune_weight_by_cross_validation(KEY, problem, prior, jnp.ones(3), num_probes=0)
