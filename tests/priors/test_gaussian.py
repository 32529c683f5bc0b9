"""The Gaussian prior against dense linear algebra, scipy and published anchors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.stats import multivariate_normal

from diffctl.priors import GaussianPrior
from tests.tolerances import EXACT32, EXACT64, FD64, stat

SHAPE = (2, 2)
RNG = np.random.default_rng(11)
ROOT = RNG.normal(size=(4, 4)) / 2
COVARIANCE = ROOT @ ROOT.T + 0.1 * np.eye(4)
MEAN = RNG.normal(size=SHAPE) / 3
X = RNG.normal(size=SHAPE)
MATRIX = RNG.normal(size=(2, 4))
Y = RNG.normal(size=2)
SIGMA, NOISE_STD = 0.6, 0.4


def prior():
    return GaussianPrior.from_moments(MEAN, COVARIANCE)


@pytest.mark.usefixtures("x64")
def test_denoiser_density_and_score_against_dense_algebra():
    @jax.jit
    def evaluate(law, x, sigma):
        score = jax.grad(law.log_density)(x, sigma)
        return (
            law.denoise(x, sigma),
            law.log_density(x, sigma),
            law.score(x, sigma),
            score,
        )

    total = COVARIANCE + SIGMA**2 * np.eye(4)
    pull = np.linalg.solve(total, (X - MEAN).ravel())
    found = evaluate(prior(), X, SIGMA)
    expected = (
        MEAN + (COVARIANCE @ pull).reshape(SHAPE),
        multivariate_normal(MEAN.ravel(), total).logpdf(X.ravel()),
        -pull.reshape(SHAPE),
        -pull.reshape(SHAPE),
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **EXACT64)
    np.testing.assert_allclose(prior().covariance(), COVARIANCE, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_flow_solves_the_probability_flow_ode():
    def slope(sigma, x):
        total = COVARIANCE + sigma**2 * np.eye(4)
        return sigma * np.linalg.solve(total, x - MEAN.ravel())

    exact = solve_ivp(slope, (3.0, 0.2), X.ravel(), rtol=1e-11, atol=1e-12).y[:, -1]
    found = jax.jit(lambda law: law.flow(X, 3.0, 0.2))(prior())
    np.testing.assert_allclose(found, exact.reshape(SHAPE), **FD64)


@pytest.mark.usefixtures("x64")
def test_posterior_and_evidence_against_dense_algebra():
    @jax.jit
    def condition(law, y):
        after = law.posterior(y, MATRIX, NOISE_STD)
        evidence = law.log_evidence(y, MATRIX, NOISE_STD)
        return after.mean, after.covariance(), evidence, after.denoise(X, SIGMA)

    found = condition(prior(), Y)
    precision = np.linalg.inv(COVARIANCE) + MATRIX.T @ MATRIX / NOISE_STD**2
    covariance = np.linalg.inv(precision)
    residual = Y - MATRIX @ MEAN.ravel()
    mean = MEAN.ravel() + covariance @ MATRIX.T @ residual / NOISE_STD**2
    observed = MATRIX @ COVARIANCE @ MATRIX.T + NOISE_STD**2 * np.eye(2)
    # Conditioning on x_sigma as well is one more measurement, of identity matrix.
    both = np.linalg.inv(precision + np.eye(4) / SIGMA**2)
    denoised = both @ (precision @ mean + X.ravel() / SIGMA**2)
    expected = (
        mean.reshape(SHAPE),
        covariance,
        multivariate_normal(MATRIX @ MEAN.ravel(), observed).logpdf(Y),
        denoised.reshape(SHAPE),
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("gain", "noise_std", "y", "mean", "variance"),
    [
        (0.7, 0.5, 1.2, 0.7651006711, 0.1677852349),
        (1.0, 0.05, 0.8, 0.7950495050, 0.0024752475),
    ],
)
def test_scalar_anchors(gain, noise_std, y, mean, variance):
    law = GaussianPrior.from_moments([0.3], [[0.25]])
    after = law.posterior(jnp.array([y]), jnp.array([[gain]]), noise_std)
    # The anchors are printed to ten digits.
    np.testing.assert_allclose(after.mean, [mean], atol=6e-11)
    np.testing.assert_allclose(after.eigenvalues, [variance], atol=6e-11)


def test_singular_covariance_and_small_noise_in_float32():
    law = GaussianPrior.from_moments(np.zeros(3), np.diag([1.0, 0.5, 0.0]))
    x = jnp.array([1.0, -1.0, 2.0])
    denoise = jax.jit(jax.value_and_grad(lambda s: jnp.sum(law.denoise(x, s))))
    value, slope = denoise(0.0)
    chex.assert_trees_all_close(value, jnp.asarray(0.0), **EXACT32)
    chex.assert_tree_all_finite(slope)
    after = jax.jit(lambda y: law.posterior(y, jnp.eye(3)[:2], 1e-3))(x[:2])
    chex.assert_type([after.mean, after.eigenvalues], jnp.float32)
    expected = np.sort([1e-6 / (1 + 1e-6), 0.5e-6 / (0.5 + 1e-6), 0.0])
    # Variances six decades below the prior's keep their relative precision.
    found = np.sort(after.eigenvalues)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(after.mean, [1, -1, 0], atol=1e-5)


def test_sample_moments():
    n = 4000
    keys = jax.random.split(jax.random.key(12), n)
    draws = jax.jit(jax.vmap(lambda k, law: law.sample(k), (0, None)))(keys, prior())
    chex.assert_shape(draws, (n, *SHAPE))
    centred = np.asarray(draws - MEAN[None]).reshape(n, 4)
    spread = np.sqrt(np.diag(COVARIANCE))  # n = 4000, k = 4
    assert np.all(np.abs(centred.mean(axis=0)) < stat(n) * spread)
    # The variance of a product of jointly Gaussian entries, by Isserlis' theorem.
    bound = stat(n) * np.sqrt(np.outer(spread, spread) ** 2 + COVARIANCE**2)
    assert np.all(np.abs(centred.T @ centred / n - COVARIANCE) < bound)


@pytest.mark.parametrize(
    ("mean", "covariance", "message"),
    [
        (np.zeros(3), np.eye(2), r"shape \(3, 3\)"),
        (np.zeros(2), [[1.0, 0.5], [0.0, 1.0]], "symmetric"),
        (np.zeros(2), [[1.0, 2.0], [2.0, 1.0]], "semi-definite"),
        (np.zeros(2), [[np.nan, 0.0], [0.0, 1.0]], "non-finite"),
        ([np.inf, 0.0], np.eye(2), "non-finite"),
    ],
)
def test_bad_values_are_named(mean, covariance, message):
    with pytest.raises(ValueError, match=message):
        GaussianPrior.from_moments(mean, covariance)
