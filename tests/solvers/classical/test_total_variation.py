"""Solvers with total variation against the dual problem, solved by SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import GaussianNoise, Identity, Problem
from diffctl.priors import TotalVariation
from diffctl.solvers import ADMM, FISTA, ChambollePock, in_unit_range, solve
from tests.solvers.classical.energies import KEY, STD, Bench, Unsplit

SHAPE = (4, 3, 1)
BENCH = Bench(SHAPE, 14)


def _prior(num_inner=100):
    return TotalVariation(weight=3.0, shape=SHAPE, group=(), num_inner=num_inner)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "solver",
    [
        ADMM(num_steps=400, penalty=8.0, num_inner=12),
        ChambollePock(num_steps=3000),
    ],
)
def test_minimum_with_a_full_operator(solver):
    found = solve(KEY, BENCH.problem(), _prior(), solver, record=_residuals)
    expected = BENCH.least_total_variation(_prior())
    flat = np.abs(np.diff(expected, axis=0)) < 1e-9
    assert 0 < flat.mean() < 1
    # Measured: 1e-9 (ADMM), 3e-9 (Chambolle-Pock).
    np.testing.assert_allclose(found.x, expected, rtol=0, atol=1e-7)
    if isinstance(solver, ADMM):
        assert float(found.trace["primal_residual"][-1]) < 1e-6
        assert float(found.trace["dual_residual"][-1]) < 1e-6


def _residuals(carry, trace):
    return trace.extra


@pytest.mark.usefixtures("x64")
def test_unsplit_it_is_the_same_minimum():
    """Plug-and-play ADMM and FISTA with the proximal map of TV as denoiser."""
    prior = Unsplit(inner=_prior(num_inner=400))
    solvers = (ADMM(num_steps=100, penalty=40.0, num_inner=12), FISTA(num_steps=300))
    expected = BENCH.least_total_variation(_prior())
    for solver in solvers:
        found = solve(KEY, BENCH.problem(), prior, solver).x
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_steps_shrink_as_in_closed_form():
    """Denoising: levels 0 and 1 of 10 pixels each move by weight s_y^2 / 10."""
    y = jnp.asarray([0.0] * 10 + [1.0] * 10)
    operator = Identity(shape=(20,))
    problem = Problem(y=y, operator=operator, noise=GaussianNoise(std=STD))
    prior = TotalVariation.isotropic((20,), 0.7 / STD**2, axes=(0,))
    expected = np.repeat([0.07, 0.93], 10)
    for solver in (
        ADMM(num_steps=150, penalty=50.0, num_inner=20),
        ChambollePock(num_steps=2000),
    ):
        found = solve(KEY, problem, prior, solver).x
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


@pytest.mark.usefixtures("x64")
def test_a_box_holds_and_is_optimal():
    """Inside the box the energy is stationary against moves back from it."""
    prior = TotalVariation(weight=0.5, shape=SHAPE, group=())
    bounded = ChambollePock(num_steps=3000, constraint=in_unit_range)
    x = np.asarray(solve(KEY, BENCH.problem(), prior, bounded).x)
    free = BENCH.least_total_variation(prior)
    assert np.max(np.abs(free)) > 1.001 * np.max(np.abs(x))
    assert np.max(np.abs(x)) <= 1
    sizes = np.repeat([1e-1, 1e-2, 1e-3], 50).reshape(-1, 1, 1, 1)
    moves = sizes * np.random.default_rng(0).normal(size=(150, *SHAPE))
    energies = BENCH.energies([x, *np.clip(x + moves, -1, 1)], prior)
    assert np.all(energies[1:] >= energies[0] - 1e-9)
