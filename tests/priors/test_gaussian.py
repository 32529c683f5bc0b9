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


# The derivatives below are differences of these, which need no factorisation.
def _laws(covariance, matrix, y, std, sigma):
    """Return what prior and posterior say of X, by dense algebra in NumPy."""
    gap = X.ravel() - MEAN.ravel()
    observed = matrix @ covariance @ matrix.T + std**2 * np.eye(y.size)
    gain = covariance @ matrix.T @ np.linalg.inv(observed)
    mean = MEAN.ravel() + gain @ (y - matrix @ MEAN.ravel())
    after = covariance - gain @ matrix @ covariance
    total = covariance + sigma**2 * np.eye(4)
    density = multivariate_normal(MEAN.ravel(), total).logpdf(X.ravel())
    return np.concatenate(
        [
            covariance @ np.linalg.solve(total, gap) + MEAN.ravel(),
            [density],
            mean,
            after.ravel(),
            after @ np.linalg.solve(after + sigma**2 * np.eye(4), X.ravel() - mean),
        ]
    )


def _found_laws(covariance, matrix, y, std, sigma):
    law = GaussianPrior.from_moments(MEAN, covariance)
    after = law.posterior(y, matrix, std)
    return jnp.concatenate(
        [
            law.denoise(X, sigma).ravel(),
            law.log_density(X, sigma)[None],
            after.mean.ravel(),
            after.covariance().ravel(),
            (after.denoise(X, sigma) - after.mean).ravel(),
        ]
    )


COVARIANCES = {
    "equal": 0.3 * np.eye(4),
    "singular": np.diag([0.5, 0.5, 0, 0]),
    "zero": np.zeros((4, 4)),
    "near": np.diag([0.3, 0.3 + 1e-9, 0.7, 0.7 + 1e-9]),
    "distinct": COVARIANCE,
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", COVARIANCES)
def test_derivatives_in_every_argument(name):
    """First and second, in C, A, y, the noise and the level, along random lines."""
    rng = np.random.default_rng(2)
    start = (COVARIANCES[name], np.eye(4)[:2], Y, NOISE_STD, SIGMA)
    turn = rng.normal(size=(4, 4)) / 5
    drawn = rng.normal(size=(2, 4)) / 5, rng.normal(size=2) / 5
    change = (turn + turn.T, *drawn, 0.06, 0.04)

    def at(t):
        return tuple(a + t * b for a, b in zip(start, change, strict=True))

    def slope(t):
        return jax.jvp(lambda t: _found_laws(*at(t)), (t,), (1.0,))[1]

    first, second = jax.jit(lambda t: jax.jvp(slope, (t,), (1.0,)))(0.0)
    step = 1e-3
    two, one, none, minus, minus_two = [_laws(*at(k * step)) for k in (2, 1, 0, -1, -2)]
    expected = (8 * (one - minus) - (two - minus_two)) / (12 * step)
    curved = (16 * (one + minus) - (two + minus_two) - 30 * none) / (12 * step**2)
    # The differences' own error, as the change at half the step, in units of 1 + |d|:
    # 6.5e-9 in the first and 2.4e-8 in the second, both for C = 0, less elsewhere.
    np.testing.assert_allclose(first, expected, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(second, curved, rtol=1e-7, atol=1e-7)


def test_a_posterior_of_equal_variances_has_the_published_slope():
    law = GaussianPrior.from_moments(np.zeros(4), 0.3 * np.eye(4))
    y = jnp.array([0.3, -0.2])
    found = jax.grad(lambda std: law.posterior(y, jnp.eye(4)[:2], std).mean.sum())(0.2)
    assert abs(found + 0.1038) < 5e-5


@pytest.mark.usefixtures("x64")
def test_draws_change_as_their_covariance_does():
    """x = L n with L L^T = C: dL L^T + L dL^T = dC, also for equal variances."""
    turn = np.random.default_rng(4).normal(size=(4, 4))
    change, covariance = turn + turn.T, 0.3 * np.eye(4)
    keys = jax.random.split(jax.random.key(0), 8)

    def draws(covariance):
        law = GaussianPrior.from_moments(np.zeros(4), covariance)
        return jax.vmap(law.sample)(keys)

    drawn, moved = jax.jvp(draws, (jnp.asarray(covariance),), (jnp.asarray(change),))
    slope = np.linalg.lstsq(drawn, moved)[0].T  # dL L^{-1}
    np.testing.assert_allclose(drawn @ slope.T, moved, **EXACT64)
    np.testing.assert_allclose(
        slope @ covariance + covariance @ slope.T, change, **EXACT64
    )


@pytest.mark.usefixtures("x64")
def test_the_flow_to_the_clean_level_has_its_slope_in_that_level():
    """sigma' / sigma where the variance is 0; sqrt(w + sigma'^2) has none for w > 0."""
    law = GaussianPrior.from_moments(np.zeros(2), np.diag([0.0, 0.5]))
    x = jnp.array([0.6, -0.4])
    end, slope = jax.jvp(lambda s: law.flow(x, 1.5, s), (0.0,), (1.0,))
    np.testing.assert_allclose(end, [0, -0.4 * np.sqrt(0.5 / 2.75)], **EXACT64)
    np.testing.assert_allclose(slope, [0.6 / 1.5, 0], **EXACT64)


@pytest.mark.usefixtures("x64")
def test_pull_backs_change_with_the_covariance():
    """Of equal variances, as in a step that differentiates the denoiser."""
    rng = np.random.default_rng(4)
    root, v, u = rng.normal(size=(4, 4)), rng.normal(size=4), rng.normal(size=4)
    change = jnp.asarray(root + root.T)

    def found(s):
        prior = GaussianPrior.from_moments(np.zeros(4), 0.3 * jnp.eye(4) + s * change)
        pull = jax.vjp(lambda x: prior.denoise(x, 0.5), jnp.zeros(4))[1]
        return jnp.vdot(u, pull(jnp.asarray(v))[0])

    # d/dC of C (C + sigma^2)^{-1} at C = c I is sigma^2 / (c + sigma^2)^2.
    expected = u @ change @ v * 0.25 / (0.3 + 0.25) ** 2
    np.testing.assert_allclose(jax.grad(found)(0.0), expected, **EXACT64)
