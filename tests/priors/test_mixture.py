"""The mixture prior against brute-force integration and automatic differentiation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from diffctl.priors import GaussianMixturePrior, GaussianPrior
from diffctl.priors.mixture import normalised_log
from tests.tolerances import EXACT64, FD64, stat

WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = np.array([-0.9, 0.1, 0.8])
STDS = np.array([0.05, 0.2, 0.1])
AXIS = np.linspace(-3, 3, 20001)  # of x0, spacing 3e-4


def scalar_mixture():
    variances = (STDS**2)[:, None, None]
    return GaussianMixturePrior.from_moments(WEIGHTS, MEANS[:, None], variances)


def plane_mixture():
    roots = np.random.default_rng(13).normal(size=(3, 2, 2)) / 3
    covariances = roots @ roots.swapaxes(1, 2) + 0.02 * np.eye(2)
    means = np.array([[-0.7, 0.2], [0.5, 0.5], [0.3, -0.9]])
    return GaussianMixturePrior.from_moments(WEIGHTS, means, covariances)


def density(x0):
    return norm.pdf(x0[:, None], MEANS, STDS) @ WEIGHTS


@pytest.mark.usefixtures("x64")
def test_denoiser_and_density_by_integration():
    points = np.array([-1.5, -0.4, 0.0, 0.45, 2.0])

    @jax.jit
    @jax.vmap
    def evaluate(x, sigma):
        law = scalar_mixture()
        return law.denoise(x[None], sigma)[0], law.log_density(x[None], sigma)

    for sigma in (0.1, 0.5, 3.0):
        found = evaluate(points, np.full(5, sigma))
        joint = density(AXIS) * norm.pdf(points[:, None], AXIS, sigma)
        total = np.trapezoid(joint, AXIS, axis=1)
        mean = np.trapezoid(joint * AXIS, AXIS, axis=1) / total
        # Trapezoid sums of smooth decaying functions converge beyond all orders.
        np.testing.assert_allclose(found[0], mean, **EXACT64)
        np.testing.assert_allclose(found[1], np.log(total), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_score_is_the_gradient_of_the_log_density():
    @jax.jit
    @jax.vmap
    def scores(x, sigma):
        law = plane_mixture()
        return law.score(x, sigma), jax.grad(law.log_density)(x, sigma)

    x = np.random.default_rng(14).normal(size=(6, 2))
    found, expected = scores(x, np.array([0.05, 0.1, 0.3, 1.0, 5.0, 80.0]))
    chex.assert_trees_all_close(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_posterior_by_integration():
    gain, noise_std, y = 0.8, 0.25, 0.35

    @jax.jit
    def condition(y):
        after = scalar_mixture().posterior(y[None], jnp.array([[gain]]), noise_std)
        density_of = lambda x0: after.log_density(x0[None], 0.0)  # noqa: E731
        return after.moments(), jax.vmap(density_of)(AXIS), after.denoise(y[None], 0.3)

    (mean, variance), log_density, denoised = condition(jnp.asarray(y))
    joint = density(AXIS) * norm.pdf(y, gain * AXIS, noise_std)
    joint /= np.trapezoid(joint, AXIS)
    exact_mean = np.trapezoid(joint * AXIS, AXIS)
    exact_variance = np.trapezoid(joint * (AXIS - exact_mean) ** 2, AXIS)
    np.testing.assert_allclose(mean, [exact_mean], **EXACT64)
    np.testing.assert_allclose(variance, [[exact_variance]], **EXACT64)
    # Far tails: the density itself is compared, relative to its largest value.
    found = np.exp(log_density) / joint.max()
    np.testing.assert_allclose(found, joint / joint.max(), **EXACT64)
    noisy = joint * norm.pdf(y, AXIS, 0.3)
    expected = np.trapezoid(noisy * AXIS, AXIS) / np.trapezoid(noisy, AXIS)
    np.testing.assert_allclose(denoised, [expected], **EXACT64)


@pytest.mark.usefixtures("x64")
def test_posterior_of_the_plane_by_integration():
    law, axis = plane_mixture(), np.linspace(-8, 8, 501)
    matrix, y, noise_std = jnp.array([[0.6, -1.1]]), jnp.array([0.2]), 0.3
    plane = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    log_prior = jax.jit(jax.vmap(lambda v: law.log_density(v, 0.0)))(plane)
    residual = (np.asarray(y) - plane @ np.asarray(matrix).T)[:, 0]
    joint = np.exp(log_prior - residual**2 / (2 * noise_std**2))
    joint /= joint.sum()
    mean = joint @ plane
    covariance = (joint[:, None] * (plane - mean)).T @ (plane - mean)
    found = jax.jit(lambda: law.posterior(y, matrix, noise_std).moments())()
    np.testing.assert_allclose(found[0], mean, **EXACT64)
    np.testing.assert_allclose(found[1], covariance, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_one_component_is_the_gaussian_prior():
    covariance = np.array([[0.5, 0.2], [0.2, 0.3]])
    single = GaussianPrior.from_moments([[0.1, -0.4]], covariance)
    mixture = GaussianMixturePrior.from_moments([3.0], [[[0.1, -0.4]]], [covariance])
    x, v = jnp.array([[1.0, 0.5]]), jnp.array([[0.3, -1.0]])

    def tangents(law):
        value, tangent = jax.jvp(lambda z: law.denoise(z, 0.4), (x,), (v,))
        cotangent = jax.vjp(lambda z: law.denoise(z, 0.4), x)[1](v)
        return value, tangent, cotangent, law.log_density(x, 0.4)

    found, expected = jax.jit(lambda: (tangents(mixture), tangents(single)))()
    chex.assert_trees_all_close(found, expected, **EXACT64)


def test_far_tails_stay_finite_in_float32():
    # 100 standard deviations away every component's density underflows.
    law = plane_mixture()
    x, sigma = jnp.array([50.0, -80.0]), jnp.asarray(0.01)

    @jax.jit
    def evaluate(x):
        jacobian = jax.jacobian(law.denoise)(x, sigma)
        return law.denoise(x, sigma), law.log_density(x, sigma), jacobian

    chex.assert_tree_all_finite(evaluate(x))
    empty = GaussianMixturePrior.from_moments([1.0, 0.0], np.eye(2), [np.eye(2)] * 2)
    single = GaussianPrior.from_moments([1.0, 0.0], np.eye(2))
    found = empty.denoise(x, sigma)
    chex.assert_trees_all_close(found, single.denoise(x, sigma), rtol=1e-6)
    chex.assert_tree_all_finite(jax.jacobian(empty.denoise)(x, sigma))


def test_sample_moments_and_shares():
    n, law = 4000, plane_mixture()
    keys = jax.random.split(jax.random.key(15), n)
    draws = np.asarray(
        jax.jit(jax.vmap(lambda k, p: p.sample(k), (0, None)))(keys, law)
    )
    mean, covariance = jax.tree.map(np.asarray, law.moments())
    # n = 4000, k = 4
    assert np.all(np.abs(draws.mean(0) - mean) < stat(n) * np.sqrt(np.diag(covariance)))
    outer = (draws - mean)[:, :, None] * (draws - mean)[:, None, :]
    assert np.all(np.abs(outer.mean(0) - covariance) < stat(n) * outer.std(0))


@pytest.mark.parametrize(
    ("weights", "means", "message"),
    [
        ([0.5], np.zeros((2, 1)), "got 1, 2 and 2"),
        ([0.5, -0.5], np.zeros((2, 1)), "non-negative"),
        ([0.0, 0.0], np.zeros((2, 1)), "not all 0"),
        ([0.5, 0.5], np.zeros((2, 3)), r"shape \(3, 3\)"),
    ],
)
def test_bad_values_are_named(weights, means, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixturePrior.from_moments(weights, means, np.ones((2, 1, 1)))


@pytest.mark.parametrize("unit", [1.0, 1e308, 2.0**-1074, 1e-300])
def test_weights_of_any_unit_are_normalised(unit):
    """Sums of huge weights overflow, and quotients of the smallest are inexact."""
    found = normalised_log(np.array([1.0, 0.0, 1.0]) * unit)
    np.testing.assert_array_equal(found, [-np.log(2), -np.inf, -np.log(2)])


@pytest.mark.usefixtures("x64")
def test_derivatives_in_weights_and_equal_variances():
    """Against differences of the same law, built on the host."""
    rng = np.random.default_rng(3)
    turn = rng.normal(size=(2, 2, 2)) / 5
    start = np.array([0.3, 0.7]), np.stack([np.eye(2), 0.5 * np.eye(2)])
    change = np.array([0.2, -0.1]), turn + np.swapaxes(turn, 1, 2)
    means, x, step = rng.normal(size=(2, 2)), jnp.array([0.4, -0.3]), 1e-4

    def denoised(t):
        weights, covariances = (a + t * b for a, b in zip(start, change, strict=True))
        law = GaussianMixturePrior.from_moments(weights, means, covariances)
        return law.denoise(x, 0.5)

    ends = [denoised(k * step) for k in (2, 1, -1, -2)]
    expected = (8 * (ends[1] - ends[2]) - (ends[0] - ends[3])) / (12 * step)
    _, found = jax.jit(lambda t: jax.jvp(denoised, (t,), (1.0,)))(0.0)
    np.testing.assert_allclose(found, expected, **FD64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("std", [0.003, 1.0])
def test_float32_keeps_what_two_components_differ_by(std):
    """Of shares and evidences: d = 256, far from two neighbours of one covariance."""
    rng = np.random.default_rng(21)
    d, sigma = 256, np.float32(std / 3)
    root = np.eye(d) + 0.3 * rng.normal(size=(d, d)) / np.sqrt(d)
    covariance = std**2 * root @ root.T
    means = rng.normal(size=(3, d))
    means[1] = means[0]
    means[1, :4] += 0.05 * std
    law = GaussianMixturePrior.from_moments([0.3, 0.6, 0.1], means, [covariance] * 3)
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), law)
    x = (means[0] + 30 * std * rng.normal(size=d)).astype(np.float32)
    matrix = np.eye(d)[: d // 2].astype(np.float32)

    @jax.jit
    def evaluate(law, x, matrix, sigma):
        after = law.posterior(matrix @ x, matrix, sigma)
        return law.log_responsibilities(x, sigma)[:2], after.log_weights[:2]

    found = evaluate(narrow, x, matrix, sigma)
    # What float32 made of the law is the law.
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), narrow)
    numbers = (np.asarray(array, np.float64) for array in (x, matrix, sigma))
    expected = evaluate(wide, *numbers)
    # 1e-6 measured, beside squared distances of 2e5; 6e-3 when those are subtracted.
    for narrow_logs, wide_logs in zip(found, expected, strict=True):
        np.testing.assert_allclose(narrow_logs, wide_logs, atol=1e-5)
