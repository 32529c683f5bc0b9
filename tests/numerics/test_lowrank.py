"""Low-rank algebra against the dense matrices it stands for."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import psd_factor, truncate, woodbury_core, woodbury_solve
from tests.tolerances import EXACT32, EXACT64

DIM, RANK = 7, 3


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _singular_core(seed, rank=RANK):
    thin = _normal(seed, rank, rank - 1)
    return thin @ thin.T


@pytest.mark.usefixtures("x64")
def test_woodbury_matches_the_dense_solve():
    """With a singular C and dependent columns of U, in values and gradients."""
    basis = _normal(0, DIM, RANK)
    basis[:, 2] = basis[:, 0]
    arguments = (0.7, basis, _singular_core(1), _normal(2, DIM, 2))

    def dense(shift, basis, core, b):
        return jnp.linalg.solve(shift * jnp.eye(DIM) + basis @ core @ basis.T, b)

    @jax.jit
    def compare(*args):
        def value_and_gradients(solve):
            value = solve(*args)
            loss = jax.grad(lambda *a: jnp.sum(jnp.sin(solve(*a))), (0, 1, 3))
            return value, loss(*args)

        return value_and_gradients(woodbury_solve), value_and_gradients(dense)

    found, expected = compare(*arguments)
    chex.assert_trees_all_close(found, expected, **EXACT64)
    single = jax.jit(woodbury_solve)(*arguments[:3], arguments[3][:, 0])
    chex.assert_trees_all_close(single, expected[0][:, 0], **EXACT64)


@pytest.mark.usefixtures("x64")
def test_riccati_identity_of_the_core():
    """a S is the core of V - V U (a + U V U)^{-1} U V, eq (3)."""
    basis, core = _normal(3, DIM, RANK), _singular_core(4)
    s = jax.jit(woodbury_core)(0.4, basis.T @ basis, core)
    inverse = np.linalg.inv(0.4 * np.eye(DIM) + basis @ core @ basis.T)
    expected = core - core @ basis.T @ inverse @ basis @ core
    chex.assert_trees_all_close(0.4 * s, expected, **EXACT64)
    chex.assert_trees_all_equal(s, s.T)


def test_single_precision_with_a_wide_range_of_curvatures():
    """Noise of std 0.01 gives curvatures of 1e4 beside exact zeros."""
    basis = np.linalg.qr(_normal(5, DIM, RANK))[0].astype(np.float32)
    curvatures = np.array([1e4, 1.0, 0.0], np.float32)
    b = _normal(6, DIM).astype(np.float32)
    found = jax.jit(woodbury_solve)(1.0, basis, np.diag(curvatures), b)
    expected = b - basis @ (curvatures / (1 + curvatures) * (basis.T @ b))
    chex.assert_trees_all_close(found, expected, **EXACT32)


@pytest.mark.usefixtures("x64")
def test_psd_factor_of_a_singular_matrix():
    core = _singular_core(7)
    factor = psd_factor(core)
    chex.assert_trees_all_close(factor @ factor.T, core, **EXACT64)
    chex.assert_tree_all_finite(psd_factor(-1e-18 * np.eye(3)))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("core", [np.eye(3), np.diag([2.0, 2.0, 0.0])])
def test_psd_factor_changes_as_the_matrix_does_where_eigenvalues_coincide(core):
    turn = _normal(11, 3, 3)
    change = turn @ core + core @ turn.T  # none within the null space
    factor, moved = jax.jvp(psd_factor, (core,), (change,))
    chex.assert_trees_all_close(factor @ factor.T, core, **EXACT64)
    found = moved @ factor.T + factor @ moved.T
    chex.assert_trees_all_close(found, change, **EXACT64)
    (pulled,) = jax.vjp(psd_factor, core)[1](moved)
    chex.assert_trees_all_close(np.sum(pulled * change), np.sum(moved**2), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_truncation_is_the_best_approximation():
    basis, core = _normal(8, DIM, 5), _singular_core(9, rank=5)
    full = basis @ core @ basis.T
    values, vectors = np.linalg.eigh(full)

    @jax.jit
    def everything(basis, core):
        definite = core + jnp.eye(5)
        gradient = jax.grad(lambda c: jnp.trace(truncate(basis, c, 5)[1]))(definite)
        return truncate(basis, core, 2), truncate(basis, core, 5), gradient

    (u, c), (u_all, c_all), gradient = everything(basis, core)
    best = (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T
    chex.assert_trees_all_close(u @ c @ u.T, best, **EXACT64)
    chex.assert_trees_all_close(u.T @ u, np.eye(2), **EXACT64)
    chex.assert_trees_all_close(c, np.diag(values[:-3:-1]), **EXACT64)
    chex.assert_trees_all_close(u_all @ c_all @ u_all.T, full, **EXACT64)
    assert c_all[4, 4] == 0  # the null direction of C
    chex.assert_trees_all_close(gradient, basis.T @ basis, **EXACT64)


def test_truncation_rank_is_checked():
    with pytest.raises(ValueError, match="rank is 4"):
        truncate(jnp.ones((DIM, RANK)), jnp.eye(RANK), 4)
