"""The mixture of round clusters against the mixture with full covariances."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.priors import GaussianMixturePrior, IsotropicMixturePrior
from tests.tolerances import EXACT64, stat

SHAPE, STD = (3, 2), 0.4


def pair() -> tuple[IsotropicMixturePrior, GaussianMixturePrior]:
    rng = np.random.default_rng(3)
    weights, means = rng.uniform(size=5), 2 * rng.normal(size=(5, *SHAPE))
    full = np.broadcast_to(STD**2 * np.eye(6), (5, 6, 6))
    return (
        IsotropicMixturePrior.from_moments(weights, means, STD),
        GaussianMixturePrior.from_moments(weights, means, full),
    )


@pytest.mark.usefixtures("x64")
def test_it_is_the_general_mixture():
    x, v = np.random.default_rng(4).normal(size=(2, 4, *SHAPE))

    @jax.jit
    def evaluate(law, x, v, sigma):
        value, pull_back = jax.vjp(lambda z: law.denoise(z, sigma), x)
        return {
            "denoise": value,
            "vjp": pull_back(v)[0],
            "responsibilities": law.log_responsibilities(x, sigma),
            "density": law.log_density(x, sigma),
            "gradient": jax.grad(law.log_density)(x, sigma),
            "score": law.score(x, sigma),
        }

    few, full = pair()
    for i, sigma in enumerate((0.05, 0.5, 3.0, 500.0)):
        at = x[i] * (1 + sigma), v[i], jnp.asarray(sigma)
        found, expected = evaluate(few, *at), evaluate(full, *at)
        chex.assert_trees_all_close(found, expected, **EXACT64)
        chex.assert_trees_all_close(found["gradient"], found["score"], **EXACT64)
    clean = few.log_density(x[0], 0.0), few.denoise(x[0], 0.0)
    expected = full.log_density(x[0], 0.0), x[0]
    chex.assert_trees_all_close(clean, expected, **EXACT64)


def test_samples_have_the_moments_of_the_law():
    n, (law, full) = 4000, pair()
    keys = jax.random.split(jax.random.key(5), n)
    draws = np.asarray(jax.jit(jax.vmap(law.sample))(keys)).reshape(n, -1)
    mean, covariance = jax.tree.map(np.asarray, full.moments())
    # n = 4000, k = 4
    deviation = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(draws.mean(0) - mean.ravel()) < stat(n) * deviation)
    centred = draws - mean.ravel()
    outer = centred[:, :, None] * centred[:, None, :]
    assert np.all(np.abs(outer.mean(0) - covariance) < stat(n) * outer.std(0))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("std", [0.01, 0.001, 0.4])
def test_float32_keeps_what_two_points_differ_by(std):
    """d = 3072: between two neighbours, and halfway between two components."""
    rng = np.random.default_rng(8)
    means = rng.uniform(-1, 1, (6, 32, 32, 3))
    means[1] = means[0] + 0.3 * rng.normal(size=means[0].shape)
    weights = rng.uniform(size=6)
    wide = IsotropicMixturePrior.from_moments(weights, means, std)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), wide)
    # What float32 made of the law is the law.
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), narrow)
    sigma = np.float32(std / 3)

    def both(evaluate, x):
        return (
            np.asarray(evaluate(law, jnp.asarray(x, dtype), jnp.asarray(sigma, dtype)))
            for law, dtype in ((narrow, jnp.float32), (wide, jnp.float64))
        )

    noise = rng.normal(size=(2, *means[0].shape))
    points = (means[2] + std * noise + 1e-3 * std * noise[::-1]).astype(np.float32)
    density = jax.jit(jax.vmap(IsotropicMixturePrior.log_density, (None, 0, None)))
    found, expected = both(density, points)
    # 3e-3 measured, the rounding of densities of about 15000.
    assert abs(np.diff(found) - np.diff(expected)) < 1e-2
    middle = ((means[0] + means[1]) / 2).astype(np.float32)
    shares = jax.jit(IsotropicMixturePrior.log_responsibilities)
    found, expected = both(shares, middle)
    # Summed entry by entry: beside the 1e5 to 1e9 of both distances.
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-3, atol=1e-2)
    denoised, truth = both(jax.jit(IsotropicMixturePrior.denoise), middle)
    np.testing.assert_allclose(denoised, truth, atol=1e-4)  # 3e-5 measured


def test_far_tails_and_empty_components_stay_finite_in_float32():
    law = IsotropicMixturePrior.from_moments([1.0, 0.0], np.eye(2), 0.1)
    x, sigma = jnp.array([50.0, -80.0]), jnp.asarray(0.01)

    @jax.jit
    def evaluate(x):
        return law.denoise(x, sigma), law.log_density(x, sigma), law.score(x, sigma)

    chex.assert_tree_all_finite((evaluate(x), jax.jacobian(law.denoise)(x, sigma)))
    share = 0.1**2 / (0.1**2 + 0.01**2)
    expected = share * x + (1 - share) * jnp.array([1.0, 0.0])
    chex.assert_trees_all_close(evaluate(x)[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("weights", "means", "std", "message"),
    [
        ([0.5], np.zeros((2, 1)), 1.0, r"shapes \(1,\) and \(2, 1\)"),
        ([], np.zeros((0, 1)), 1.0, "at least one"),
        ([0.5, -0.5], np.zeros((2, 1)), 1.0, "non-negative"),
        ([0.0, 0.0], np.zeros((2, 1)), 1.0, "not all 0"),
        ([0.5, np.inf], np.zeros((2, 1)), 1.0, "finite"),
        ([0.5, 0.5], np.full((2, 1), np.nan), 1.0, "2 entries of means"),
        ([0.5, 0.5], np.zeros((2, 1)), 0.0, "std is 0.0"),
    ],
)
def test_bad_values_are_named(weights, means, std, message):
    with pytest.raises(ValueError, match=message):
        IsotropicMixturePrior.from_moments(weights, means, std)


@pytest.mark.parametrize(
    ("means", "std", "message"),
    [
        ([[0.0]], 1e-50, "std is 1e-50, 0.0 there"),
        ([[0.0]], 1e39, "std is 1e.39, inf there"),
        ([[1e39]], 0.1, "1 entries of means are not finite"),
    ],
)
def test_moments_that_float32_cannot_hold_are_named(means, std, message):
    with pytest.raises(ValueError, match=message):
        IsotropicMixturePrior.from_moments([1.0], means, std)
