"""Outer losses, and factors of the Gauss-Newton Hessian they give."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.control import (
    ClassLoss,
    ComposedCost,
    ExactFactors,
    GaussianLoss,
    HalfSquareLoss,
    NoFactors,
    NormLoss,
    RandomizedFactors,
    exact_hessian,
    gauss_newton_hessian,
)
from tests.tolerances import EXACT64

LOSSES = {
    "nll": GaussianLoss(std=0.3),
    "sq": HalfSquareLoss(),
    "norm": NormLoss(),
    "class": ClassLoss(label=1),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
Z = np.array([0.7, -0.2, 1.1, 0.4])
X = np.random.default_rng(0).normal(size=(3, 2))
MATRIX = np.random.default_rng(1).normal(size=(4, 6))


def curved_map(x):
    return jnp.tanh(jnp.asarray(MATRIX) @ x.reshape(-1)) - 0.3


@each_loss
def test_root_squares_to_the_hessian(loss):
    @jax.jit
    def both(z):
        rows = jax.vmap(lambda w: loss.hessian_root(z, w))(jnp.eye(4))
        return rows.T @ rows, jax.hessian(loss)(z)  # the rows are columns of L

    squared, hessian = both(jnp.asarray(Z))
    np.testing.assert_allclose(squared, hessian, **EXACT64)


def test_losses_against_their_definitions():
    z = jnp.asarray(Z)
    expected = {
        "nll": np.sum(Z**2) / (2 * 0.3**2),
        "sq": np.sum(Z**2) / 2,
        "norm": np.linalg.norm(Z),
        "class": np.log(np.sum(np.exp(Z))) - Z[1],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(LOSSES[name](z), value, **EXACT64)


@each_loss
def test_factors_give_the_gauss_newton_hessian(loss):
    cost = ComposedCost(map=curved_map, loss=loss)

    @jax.jit
    def expected(x):
        jacobian = jax.jacfwd(curved_map)(x).reshape(4, 6)
        z = curved_map(x)
        hessian = jacobian.T @ jax.hessian(loss)(z) @ jacobian
        return jacobian.T @ jax.grad(loss)(z), hessian

    @jax.jit
    def found(x):
        rows = RandomizedFactors(rank=4)(cost, x, jax.random.key(0)).reshape(4, 6)
        return jax.grad(cost)(x), gauss_newton_hessian(cost, x), rows.T @ rows

    x = jnp.asarray(X)
    gradient, hessian = expected(x)
    cost_gradient, exact, randomized = found(x)
    np.testing.assert_allclose(cost_gradient.reshape(-1), gradient, **EXACT64)
    np.testing.assert_allclose(exact, hessian, **EXACT64)
    np.testing.assert_allclose(randomized, hessian, **EXACT64)


def test_randomized_factors_of_low_rank_keep_the_largest():
    cost = ComposedCost(map=curved_map, loss=HalfSquareLoss())
    x = jnp.asarray(X)

    @jax.jit
    def both(x):
        rows = RandomizedFactors(rank=2)(cost, x, jax.random.key(0))
        return rows.reshape(2, 6), gauss_newton_hessian(cost, x)

    rows, hessian = both(x)
    values, vectors = np.linalg.eigh(hessian)
    best = vectors[:, -2:] * values[None, -2:] @ vectors[:, -2:].T
    np.testing.assert_allclose(rows.T @ rows, best, **EXACT64)


def test_pytrees_and_complex_measurements_are_real_vectors():
    def spectrum(x):
        return {"k": jnp.fft.fft(x.reshape(-1))[:2], "mean": jnp.mean(x)}

    cost = ComposedCost(map=spectrum, loss=HalfSquareLoss())
    x = jnp.asarray(X)
    out = spectrum(x)
    expected = 0.5 * (jnp.sum(jnp.abs(out["k"]) ** 2) + out["mean"] ** 2)
    np.testing.assert_allclose(cost(x), expected, **EXACT64)
    hessian = jax.jit(lambda at: exact_hessian(cost, at))(x)
    found = jax.jit(lambda at: gauss_newton_hessian(cost, at))(x)
    np.testing.assert_allclose(found, hessian, rtol=1e-10, atol=1e-10)
    assert ExactFactors()(cost, x, jax.random.key(0)).shape == (5, 3, 2)


def test_no_factors():
    rows = NoFactors()(jnp.sum, jnp.asarray(X), jax.random.key(0))
    assert rows.shape == (0, 3, 2)


def test_norm_is_guarded_at_zero():
    loss = NormLoss()
    zero = jnp.zeros(3)

    @jax.jit
    def everything(z):
        root = jax.vmap(partial(loss.hessian_root, z))(jnp.eye(3))
        return loss(z), jax.grad(loss)(z), root

    chex.assert_tree_all_finite(everything(zero))
