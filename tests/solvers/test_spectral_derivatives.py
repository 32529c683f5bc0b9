"""Derivatives of spectral solvers in the matrix, at repeated singular values."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import DenseMatrix, GaussianNoise, Problem, Truncated
from diffctl.priors import GaussianPrior
from diffctl.solvers import (
    DDRM,
    ExpandedConjugatePiGDM,
    MCGdiff,
    NoisyConjugatePiGDM,
    solve,
)
from diffctl.solvers.conjugate import Parts
from diffctl.solvers.monte_carlo.likelihood_steps import SpectralLikelihood
from diffctl.solvers.monte_carlo.twists import spectral_log_likelihood
from diffctl.solvers.spectral import spectral_step
from tests.solvers.bed import grid
from tests.solvers.oracle import level
from tests.tolerances import FD64

RNG = np.random.default_rng(8)
KEY = jax.random.key(3)
# No level is at the noise of a direction, where DDRM jumps from one formula to another.
STD, SIGMAS = 0.13, (0.8, 0.2)
STEP = 1e-4
MATRICES = {
    "repeated": np.eye(4)[:3],
    "some": np.diag([1.0, 1.0, 0.4, 0])[:3],
    "distinct": RNG.normal(size=(3, 4)),
}
SIGNALS = RNG.normal(size=(3, 4))


def _problem(matrix):
    operator = DenseMatrix.from_array(matrix)
    y = jnp.linspace(-0.7, 0.9, matrix.shape[0])
    return Problem(y=y, operator=operator, noise=GaussianNoise(std=STD))


def _moved(problem):
    levels = tuple(map(level, SIGMAS))
    return spectral_step(problem, *SIGNALS[:2], levels, SIGNALS[2], 0.85, 0.9)


def _started(problem):
    return DDRM(grid=grid()).start(SIGNALS[0], problem, None)


def _changed(solver, problem):
    levels = tuple(map(level, SIGMAS))
    chosen = solver(grid=grid(), tilt=-0.1)
    parts = Parts(**dict(zip(("x0_hat", "eps", "g"), SIGNALS, strict=True)))
    return chosen.measured_change(problem, parts, levels)


def _drawn(problem):
    truncated = Truncated.create(problem.operator, 0.01)
    problem = dataclasses.replace(problem, operator=truncated)
    return SpectralLikelihood()(KEY, problem, jnp.asarray(SIGNALS[0]), 0.4)


MAPS = {
    "ddrm-ddnm-plus": _moved,
    "ddrm-start": _started,
    "cpigdm": partial(_changed, NoisyConjugatePiGDM),
    "cpigdm-expanded": partial(_changed, ExpandedConjugatePiGDM),
    "pnp-dm": _drawn,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MAPS)
def test_of_steps(name):
    """JVP and VJP against differences of fourth order."""
    change = np.random.default_rng(1).normal(size=(3, 4))

    def function(matrix):
        return MAPS[name](_problem(matrix))

    def both(matrix, change):
        _, found = jax.jvp(function, (matrix,), (change,))
        return found, jax.vjp(function, matrix)[1](found)[0]

    value, derivatives = jax.jit(function), jax.jit(both)
    for matrix in MATRICES.values():
        ends = [value(matrix + k * STEP * change) for k in (2, 1, -1, -2)]
        expected = (8 * (ends[1] - ends[2]) - (ends[0] - ends[3])) / (12 * STEP)
        found, pulled = derivatives(matrix, change)
        np.testing.assert_allclose(found, expected, **FD64)
        np.testing.assert_allclose(np.sum(pulled * change), found @ found, **FD64)


def _factor_maps(operator):
    return {
        "v": operator.v(jnp.ones(3)),
        "u": operator.u(jnp.ones(3)),
        "v_adjoint": operator.v_adjoint(jnp.ones(4)),
        "u_adjoint": operator.u_adjoint(jnp.ones(3)),
    }


def test_of_factors_are_undefined_only_where_values_repeat():
    @jax.jit
    def tangents(matrix):
        def maps(matrix):
            return _factor_maps(DenseMatrix.from_array(matrix))

        return jax.jvp(maps, (matrix,), (jnp.ones_like(matrix),))[1]

    for found in jax.tree.leaves(tangents(jnp.eye(4)[:3])):
        assert np.all(np.isnan(found))
    separate = jnp.diag(jnp.array([3.0, 2.0, 1.0, 0.0]))[:3]
    for found in jax.tree.leaves(tangents(separate)):
        assert np.all(np.isfinite(found))


def test_of_factors_of_a_complex_matrix_are_those_of_its_real_parts():
    """Six rows and three columns: a vanishing value leaves three of U undefined."""

    def turned(matrix):
        return DenseMatrix.from_array(matrix).u(jnp.ones(3))

    for last, defined in ((1.0, True), (0.0, False)):
        matrix = jnp.diag(jnp.array([3.0, 2.0, last], jnp.complex64))
        _, found = jax.jvp(turned, (matrix,), (jnp.ones_like(matrix),))
        assert np.all(np.isfinite(found) == defined)


def _solved(problem):
    prior = GaussianPrior.from_moments(np.zeros(4), np.eye(4) / 4)
    chosen = MCGdiff.default(num_steps=2, num_particles=2)
    return jnp.sum(solve(KEY, problem, prior, chosen).x)


def _likelihood(problem):
    return spectral_log_likelihood(problem, jnp.ones(4), jnp.ones(()))


@pytest.mark.parametrize("function", [_solved, _likelihood])
def test_of_weighted_particles_are_undefined_rather_than_wrong(function):
    """Their weights are sums over coordinates, which have no derivatives there."""

    def both(matrix, y):
        return function(dataclasses.replace(_problem(matrix), y=y))

    matrix, y = jax.jit(jax.grad(both, argnums=(0, 1)))(jnp.eye(4)[:3], jnp.ones(3))
    assert np.all(np.isnan(matrix))
    assert np.all(np.isfinite(y))
