"""Quadratic regularisers against dense solves."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.priors import Quadratic
from tests.tolerances import EXACT64

RNG = np.random.default_rng(12)
MATRIX, REFERENCE, X = (RNG.normal(size=s) for s in ((5, 4), (4,), (4,)))


def _product(x):
    return jnp.matmul(jnp.asarray(MATRIX), x, precision="highest")


@pytest.mark.usefixtures("x64")
def test_maps_and_proximal_maps_are_those_of_matrices():
    prior = Quadratic.create((4,), 0.6, reference=REFERENCE, linear_map=_product)
    step, x = 1.7, jnp.asarray(X)
    gram, target = MATRIX.T @ MATRIX, MATRIX @ REFERENCE
    expected = np.linalg.solve(
        np.eye(4) + step * 0.6 * gram, X + step * 0.6 * MATRIX.T @ target
    )
    np.testing.assert_allclose(prior.prox(x, step), expected, **EXACT64)
    np.testing.assert_allclose(prior.analysis_adjoint(_product(x)), gram @ X, **EXACT64)
    z = RNG.normal(size=5)
    split = (z + step * 0.6 * target) / (1 + step * 0.6)
    np.testing.assert_allclose(
        prior.analysis_prox(jnp.asarray(z), step), split, **EXACT64
    )
    energy = 0.3 * np.sum((MATRIX @ (X - REFERENCE)) ** 2)
    np.testing.assert_allclose(prior.energy(x), energy, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_norm_of_a_map_is_estimated_and_ridge_needs_none():
    prior = Quadratic.create((4,), 0.6, linear_map=_product)
    largest = np.linalg.norm(MATRIX, 2)
    np.testing.assert_allclose(prior.analysis_norm(), largest, rtol=1e-3)
    assert prior.splits
    ridge = Quadratic.create((4,), 0.6, reference=REFERENCE)
    assert ridge.analysis_norm() == 1
    assert not ridge.splits
    expected = (X + 1.7 * 0.6 * REFERENCE) / (1 + 1.7 * 0.6)
    np.testing.assert_allclose(ridge.prox(jnp.asarray(X), 1.7), expected, **EXACT64)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \(4,\)"):
        Quadratic.create((4,), 1.0, reference=jnp.zeros(3))
    with pytest.raises(ValueError, match="axes are"):
        Quadratic.smoothness((4,), 1.0)
