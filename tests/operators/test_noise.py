"""Noise models against scipy.stats, and what solvers derive from them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from diffctl import operators as ops
from tests.tolerances import EXACT32, EXACT64, stat

KEY = jax.random.key(11)
SHAPE = (4, 4, 1)


def _uniform(seed, shape=SHAPE, low=-1.0, high=1.0):
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape))


def _against_reference(noise, y, clean_a, clean_b, reference):
    """Compare differences between two clean measurements: constants drop out."""
    found = noise.neg_log_likelihood(y, clean_a) - noise.neg_log_likelihood(y, clean_b)
    np.testing.assert_allclose(
        found, reference(clean_a) - reference(clean_b), **EXACT64
    )


def test_gaussian_likelihood(x64):
    y, a, b = (_uniform(i) for i in range(3))
    _against_reference(
        ops.GaussianNoise(std=0.3),
        y,
        a,
        b,
        lambda clean: -stats.norm(clean, 0.3).logpdf(y).sum(),
    )


@pytest.mark.parametrize("shape", [(28, 28, 1), (256, 256, 3)])
@pytest.mark.parametrize("std", [0.3, 1e-3, 1e-5])
def test_a_difference_of_42_reads_42_in_float32(std, shape):
    """Between images near the truth, whose misfits are half the number of pixels."""
    rng = np.random.default_rng(12)
    clean = rng.uniform(-1, 1, shape).astype(np.float32)
    y = (clean + std * rng.normal(size=shape)).astype(np.float32)
    noise, moved = ops.GaussianNoise(std=std), clean
    gap, residual = rng.normal(size=shape), (clean.astype(float) - y) / std
    # Of |r + a g|^2 / 2 = |r|^2 / 2 + 42, as float32 holds the images.
    a = np.roots([np.sum(gap**2) / 2, np.sum(gap * residual), -42]).max()
    moved = (clean + a * std * gap).astype(np.float32)
    energy = jax.jit(noise.neg_log_likelihood)
    found = float(energy(y, moved)) - float(energy(y, clean))
    wide = [(v.astype(float) - y.astype(float)) / std for v in (moved, clean)]
    expected = np.sum(wide[0] ** 2 - wide[1] ** 2) / 2
    # The rounding of the misfits themselves, 8e-7 measured.
    assert abs(found - expected) < 2e-6 * energy(y, moved)
    assert abs(expected - 42) < 20


def test_complex_gaussian_likelihood_has_std_in_each_part(x64):
    y, a, b = (_uniform(i) + 1j * _uniform(i + 9) for i in range(3))
    _against_reference(
        ops.GaussianNoise(std=0.3),
        y,
        a,
        b,
        lambda clean: (
            -stats.norm(clean.real, 0.3).logpdf(y.real).sum()
            - stats.norm(clean.imag, 0.3).logpdf(y.imag).sum()
        ),
    )


def test_poisson_likelihood_of_counts(x64):
    noise = ops.PoissonNoise(peak=20.0, background=0.5)
    counts = np.random.default_rng(0).poisson(8, SHAPE)
    y = 2 * (counts - 0.5) / 20 - 1
    _against_reference(
        noise,
        y,
        _uniform(1),
        _uniform(2),
        lambda clean: -stats.poisson(20 * (clean + 1) / 2 + 0.5).logpmf(counts).sum(),
    )


def test_categorical_likelihood(x64):
    logits = _uniform(0, (5,))
    found = ops.Categorical().neg_log_likelihood(3, logits)
    expected = -np.log(np.exp(logits[3]) / np.exp(logits).sum())
    np.testing.assert_allclose(found, expected, **EXACT64)


def test_likelihood_of_a_stack_is_the_sum(x64):
    noise = ops.IndependentNoise(
        parts=(ops.GaussianNoise(std=0.5), ops.PoissonNoise(peak=10.0))
    )
    y, clean = (_uniform(0), _uniform(1)), (_uniform(2), _uniform(3))
    found = noise.neg_log_likelihood(y, clean)
    parts = zip(noise.parts, y, clean, strict=True)
    expected = sum(part.neg_log_likelihood(a, b) for part, a, b in parts)
    np.testing.assert_allclose(found, expected, **EXACT64)
    tree = ops.GaussianNoise(std=0.5).neg_log_likelihood(y, clean)
    np.testing.assert_allclose(
        tree,
        2 * sum(np.sum((a - b) ** 2) for a, b in zip(y, clean, strict=True)),
        **EXACT64,
    )


def test_poisson_is_smooth_and_convex_where_the_rate_would_be_negative(x64):
    noise = ops.PoissonNoise(peak=20.0, background=0.5)
    y = jnp.asarray(2 * (3 - 0.5) / 20 - 1)

    def energy(z):
        return noise.neg_log_likelihood(y, z)

    z = jnp.linspace(-3.0, 1.0, 41)
    slope_at = jax.jit(jax.vmap(jax.grad(energy)))
    curvature_at = jax.jit(jax.vmap(jax.grad(jax.grad(energy))))
    slope, curvature = slope_at(z), curvature_at(z)
    assert np.all(np.isfinite(curvature)) and np.all(curvature > 0)
    assert np.all(slope[z < -1] < 0)
    # Both derivatives are continuous at the border z = -1.
    for order in (slope_at, curvature_at):
        below, above = order(jnp.array([-1 - 1e-9, -1 + 1e-9]))
        np.testing.assert_allclose(below, above, rtol=1e-6)


def test_sample_moments():
    n = 20_000
    unit = ops.GaussianNoise(std=0.3)
    noise = ops.PoissonNoise(peak=20.0, background=0.5)
    probabilities = np.array([0.2, 0.5, 0.3])

    @jax.jit
    def draw(keys):
        logits = jnp.log(probabilities)
        labels = jax.vmap(lambda k: ops.Categorical().sample(k, logits))
        return (
            unit.sample(keys[0], jnp.zeros(n)),
            unit.sample(keys[1], jnp.zeros(n, complex)),
            noise.sample(keys[2], jnp.full((n,), 0.25)),
            labels(keys),
        )

    real, both, photons, labels = map(np.asarray, draw(jax.random.split(KEY, n)))
    for part in (real, both.real, both.imag):
        assert abs(part.mean()) < 0.3 * stat(n)
        assert abs(part.std() - 0.3) < 0.3 * stat(2 * n)
    assert abs(np.mean(both.real * both.imag)) < 0.09 * stat(n)
    rate = 20 * 1.25 / 2 + 0.5
    spread = 2 * np.sqrt(rate) / 20
    assert abs(photons.mean() - 0.25) < spread * stat(n)
    # The fourth central moment of a Poisson variable is rate + 3 rate^2.
    assert abs(photons.var() / spread**2 - 1) < np.sqrt(2 + 1 / rate) * stat(n)
    share = np.bincount(labels, minlength=3) / n
    assert np.all(np.abs(share - probabilities) < 0.5 * stat(n))


def test_leaves_and_parts_get_independent_noise():
    clean = (jnp.zeros(4), jnp.zeros(4))
    a, b = ops.GaussianNoise(std=1.0).sample(KEY, clean)
    assert not np.any(np.isclose(a, b))
    unit = ops.GaussianNoise(std=1.0)
    a, b = ops.IndependentNoise(parts=(unit, unit)).sample(KEY, clean)
    assert not np.any(np.isclose(a, b))


def test_poisson_sampling_of_iterates_out_of_range_is_finite():
    y = ops.PoissonNoise(peak=5.0).sample(KEY, jnp.array([-4.0, -1.0, 1.0]))
    assert np.all(np.isfinite(y))


def test_unobserved_pixels_carry_no_noise_unless_asked():
    mask = ops.Mask.half(SHAPE)
    x0 = jnp.full(SHAPE, 0.5)
    noise = ops.GaussianNoise(std=0.1)
    y = ops.simulate(KEY, mask, noise, x0)
    hidden = np.asarray(mask.mask) == 0
    assert np.all(np.asarray(y)[hidden] == 0)
    compat = noise.sample(KEY, mask(x0))
    assert np.all(np.asarray(compat)[hidden] != 0)
    chex.assert_trees_all_equal(mask.restrict(compat), y)
    broken = jnp.where(hidden, jnp.nan, y)
    chex.assert_trees_all_equal(mask.restrict(broken), y)
    assert ops.GaussianNoise.from_unit_range(0.05).std == 0.1


def _curved(x):
    return jnp.stack([x[0] * x[1], jnp.sin(x[1]), x[2] ** 2])


def _complex_view(x):
    return jnp.fft.fft(x)


NOISES = {
    "gaussian": (ops.GaussianNoise(std=0.4), _curved, lambda c: c + 0.3),
    "poisson": (ops.PoissonNoise(peak=9.0), _curved, lambda c: c + 0.3),
    "categorical": (ops.Categorical(), _curved, lambda c: jnp.asarray(1)),
    "complex": (ops.GaussianNoise(std=0.4), _complex_view, lambda c: c + 0.3 - 0.1j),
}


@pytest.mark.parametrize("name", NOISES)
def test_gauss_newton_is_the_dense_product(name, x64):
    noise, function, measure = NOISES[name]
    operator = ops.FunctionOperator.create(function, (3,))
    x = jnp.array([0.3, -0.5, 0.7])
    problem = ops.Problem(y=measure(operator(x)), operator=operator, noise=noise)

    def parts(x):
        clean = operator(x)
        return jnp.concatenate([clean.real, clean.imag])

    def energy(parts):
        clean = parts[:3] + 1j * parts[3:] if name == "complex" else parts[:3]
        return noise.neg_log_likelihood(problem.y, clean)

    @jax.jit
    def run(x):
        jacobian = jax.jacfwd(parts)(x)
        expected = jacobian.T @ jax.hessian(energy)(parts(x)) @ jacobian
        return jax.vmap(lambda v: problem.gauss_newton(x, v))(jnp.eye(3)), expected

    chex.assert_trees_all_close(*run(x), **EXACT64)


def test_gauss_newton_of_a_linear_gaussian_problem_is_the_hessian(x64):
    matrix = _uniform(0, (4, 3))
    operator = ops.DenseMatrix.from_array(matrix)
    problem = ops.Problem(
        y=_uniform(1, (4,)), operator=operator, noise=ops.GaussianNoise(std=0.2)
    )
    x = _uniform(2, (3,))
    run = jax.jit(jax.vmap(lambda v: problem.gauss_newton(x, v)))
    found, gradient = run(jnp.eye(3)), jax.jit(jax.grad(problem.misfit))(x)
    chex.assert_trees_all_close(found, matrix.T @ matrix / 0.04, **EXACT64)
    expected = matrix.T @ (matrix @ x - problem.y) / 0.04
    chex.assert_trees_all_close(gradient, expected, **EXACT64)


def test_noise_levels_are_leaves_that_batch():
    y, clean = jnp.ones(SHAPE), jnp.zeros(SHAPE)
    batch = ops.GaussianNoise(std=jnp.array([0.5, 1.0]))
    found = jax.vmap(lambda noise: noise.neg_log_likelihood(y, clean))(batch)
    chex.assert_trees_all_close(found, jnp.array([32.0, 8.0]), **EXACT32)
