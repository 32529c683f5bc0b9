"""Restoration with the exact consistency model of a Gaussian."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import karras_levels
from diffctl.priors import GaussianConsistencyPrior
from diffctl.solvers import (
    ConsistencyRestoration,
    ProjectionStep,
    ProximalStep,
    solve,
)
from tests.solvers.bed import NOISE_STD, SIZE, bed, draws
from tests.tolerances import EXACT64

KEY = jax.random.key(26)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("exact", [True, False])
def test_steps_are_the_recursion_of_matrices(exact):
    law = bed()
    prior = GaussianConsistencyPrior(gaussian=law.prior())
    step = ProjectionStep() if exact else ProximalStep(weight=2.0)
    solver = ConsistencyRestoration(grid=karras_levels((0, 17, 30)), data_step=step)
    found = solve(KEY, law.problem(), prior, solver)
    levels = np.asarray(solver.grid.sigma)
    start, noise = draws(KEY, (SIZE,), 3)
    values, vectors = np.linalg.eigh(law.covariance)
    x = levels[0] * start
    for (now, next), z in zip(itertools.pairwise(levels), noise, strict=True):
        root = np.sqrt((values + 0.002**2) / (values + now**2))
        x0 = law.mean + vectors * root @ vectors.T @ (x - law.mean)
        if exact:
            x0 = x0 + np.linalg.pinv(law.matrix) @ (law.y - law.matrix @ x0)
        else:
            # The minimiser, by its normal equations.
            trust = 2.0 / now**2
            system = law.matrix.T @ law.matrix / NOISE_STD**2 + trust * np.eye(SIZE)
            pull = law.matrix.T @ law.y / NOISE_STD**2 + trust * x0
            x0 = np.linalg.solve(system, pull)
        x = x0 + np.sqrt(max(next**2 - 0.002**2, 0)) * z
    np.testing.assert_allclose(found.x, x, **EXACT64)
    assert found.stats.nfe_fwd == 3
    if exact:
        np.testing.assert_allclose(law.matrix @ np.asarray(found.x), law.y, **EXACT64)


def test_a_denoiser_is_no_consistency_model():
    law = bed()
    solver = ConsistencyRestoration(grid=karras_levels((0, 17)))
    with pytest.raises(TypeError, match="needs a ConsistencyPrior as prior"):
        solve(KEY, law.problem(), law.prior(), solver)
    assert jnp.all(jnp.isfinite(law.y))
