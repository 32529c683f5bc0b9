"""Poisson likelihoods of float32 images against float64: what chains compare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from diffctl import operators as ops
from diffctl.numerics.langevin import (
    Point,
    hamiltonian_step,
    mala_step,
    random_walk_step,
    run_chain,
)
from diffctl.operators.validation import validate_problem
from tests.tolerances import EXACT32, EXACT64, stat

SHAPE, BACKGROUND = (28, 28, 1), 0.5
PEAKS = [1.0, 1e2, 1e4, 1e6]
KEY = jax.random.key(31)


def _image():
    rows, columns = np.mgrid[:28, :28] / 27
    return jnp.asarray(np.sin(5 * rows) * np.cos(4 * columns), jnp.float32)[..., None]


def _measured(peak):
    noise = ops.PoissonNoise(peak=peak, background=BACKGROUND)
    return noise, noise.sample(KEY, _image())


def _double(peak, y, z):
    """Half the deviance of float32 images, in float64; z >= -1."""
    y, z = np.asarray(y, np.float64), np.asarray(z, np.float64)
    photons = [peak * (v + 1) / 2 + BACKGROUND for v in (y, z)]
    return special.kl_div(np.maximum(photons[0], 0), photons[1]).sum()


def _nearby(peak, count, seed=0):
    """Images off the truth by as much as the measurement says of them."""
    rates = peak * (np.asarray(_image()) + 1) / 2 + BACKGROUND
    steps = np.random.default_rng(seed).normal(size=(count, *SHAPE))
    moved = np.asarray(_image()) + 2 * np.sqrt(rates) / peak * steps / 20
    return jnp.asarray(np.clip(moved, -1, None), jnp.float32)


@pytest.mark.parametrize("peak", PEAKS)
def test_a_difference_of_42_reads_42(peak):
    noise, y = _measured(peak)
    energy = jax.jit(lambda z: noise.neg_log_likelihood(y, z))
    first = _image()
    scale = 1.0
    for _ in range(30):  # a move of which float64 says about 42
        second = jnp.clip(first + scale / np.sqrt(peak), -1, None)
        expected = _double(peak, y, second) - _double(peak, y, first)
        scale *= (42 / max(expected, 1)) ** 0.5
    assert abs(expected - 42) < 1
    found = float(energy(second)) - float(energy(first))
    # 2e-4 measured: the rounding of the misfits, about 400.
    assert abs(found - expected) < 1e-3
    assert energy(first) > 0 and energy(y) < 1e-3 * energy(first)


@pytest.mark.parametrize("peak", PEAKS)
def test_weights_of_particles(peak):
    """Total variation between weights in float32 and in float64."""
    noise, y = _measured(peak)
    images = _nearby(peak, 64)
    energies = jax.jit(jax.vmap(lambda z: noise.neg_log_likelihood(y, z)))(images)
    expected = np.array([_double(peak, y, z) for z in images])
    found = special.softmax(-np.asarray(energies, np.float64))
    # 4e-5 measured.
    assert np.abs(found - special.softmax(-expected)).sum() / 2 < 1e-3
    assert np.argmin(energies) == np.argmin(expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "step, peak",
    [
        (mala_step, 1e4),
        (mala_step, 1e6),
        (hamiltonian_step, 1e6),
        (random_walk_step, 1e4),
    ],
)
def test_chains_accept_as_in_float64(step, peak):
    """With k log r in the density, 0 to 17 % were accepted in float32."""
    num_steps = 60
    noise, y = _measured(peak)
    variance = {mala_step: 2e-3, random_walk_step: 3e-4, hamiltonian_step: 1e-2}[step]
    more = (4,) if step is hamiltonian_step else ()
    size = variance / peak if not more else np.sqrt(variance / peak)

    def share(dtype):
        def log_density(z):
            return -noise.neg_log_likelihood(y.astype(dtype), z)

        first = Point.with_score(_image().astype(dtype), log_density)
        if step is random_walk_step:
            first = first._replace(score=None)

        def kernel(key, state):
            point = step(key, state[0], log_density, size, *more)
            return point, state[1] + point.acceptance

        state = first, jnp.zeros((), dtype)
        return run_chain(KEY, kernel, state, num_steps)[1] / num_steps

    found = jax.jit(share, static_argnums=0)
    single, double = float(found(jnp.float32)), float(found(jnp.float64))
    # MALA 0.94 and 0.96, at both peaks; other draws make the means differ by so much.
    assert 0.5 < double < 0.99
    assert abs(single - double) < 0.06


CASES = {
    "matched": (12.0, 12.0),
    "near": (12.0, 12.1),
    "far": (12.0, 900.0),
    "black": (12.0, 0.5),
    "no counts": (0.0, 3.0),
    "no counts, black": (0.0, 0.5),
    "below the background": (12.0, -2.0),
    "no counts, below": (0.0, -2.0),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_the_logarithm(name):
    """Of rate - counts log rate, continued below the background, by hand."""
    peak = 50.0
    noise = ops.PoissonNoise(peak=peak, background=BACKGROUND)
    y, z = (2 * (v - BACKGROUND) / peak - 1 for v in CASES[name])
    counts, rate = CASES[name]

    def energy(z):
        return noise.neg_log_likelihood(jnp.asarray(y), z)

    if rate >= BACKGROUND:
        slope, curvature = 1 - counts / rate, counts / rate**2
    else:
        excess = rate / BACKGROUND - 1
        slope = 1 - counts * (1 - excess) / BACKGROUND
        curvature = counts / BACKGROUND**2
    found = jax.grad(energy)(z), jax.grad(jax.grad(energy))(z)
    expected = slope * peak / 2, curvature * (peak / 2) ** 2
    # y itself is rounded: counts of 0 are 1e-15.
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    root = noise.hessian_root(jnp.asarray(y), jnp.asarray(z), jnp.ones(()))
    np.testing.assert_allclose(root**2, expected[1], rtol=1e-10, atol=1e-10)
    value = (
        rate - counts - special.xlogy(counts, max(rate, BACKGROUND) / max(counts, 1))
    )
    if rate < BACKGROUND:
        value -= counts * (excess - excess**2 / 2)
    np.testing.assert_allclose(energy(z), value, **EXACT64)


def test_gradients_of_float32_images_have_the_precision_of_the_images():
    """1 - counts / rate loses three digits at a peak of 1e6; the images do not."""
    noise, y = _measured(1e6)
    z = _nearby(1e6, 1)[0]
    found = jax.grad(lambda z: noise.neg_log_likelihood(y, z))(z)
    wide = [np.asarray(v, np.float64) for v in (y, z)]
    expected = 1e6 / 2 * (wide[1] - wide[0]) / (1 + wide[1] + 2 * BACKGROUND / 1e6)
    np.testing.assert_allclose(found, expected, **EXACT32)


@pytest.mark.parametrize("peak", [1.0, 1e6, 1e10])
def test_unobserved_pixels_add_nothing(peak):
    mask = ops.Mask.half(SHAPE)
    noise = ops.PoissonNoise(peak=peak, background=BACKGROUND)
    y = ops.simulate(KEY, mask, noise, _image())
    problem = ops.Problem(y=y, operator=mask, noise=noise)
    validate_problem(problem)
    hidden = np.asarray(mask.mask) == 0
    shown = y[~hidden], _image()[~hidden]
    np.testing.assert_allclose(
        problem.misfit(_image()), noise.neg_log_likelihood(*shown), **EXACT32
    )


@pytest.mark.parametrize("peak", [1e6, 1e10, 1e12])
def test_bright_images_are_sampled(peak):
    """Mean and std of 1e4 pixels each; counts above 2^31 were all the same."""
    n, noise = 10_000, ops.PoissonNoise(peak=peak)
    for z in (-0.5, 0.7):
        y = np.asarray(noise.sample(KEY, jnp.full(n, z)), np.float64)
        spread = 2 * np.sqrt(peak * (z + 1) / 2) / peak
        # Rates and images are rounded to float32.
        assert abs(y.mean() - np.float32(z)) < spread * stat(n) + 2.0**-23
        assert abs(y.std() / spread - 1) < stat(2 * n)


@pytest.mark.parametrize("peak", [1e4, 1e6, 1e10])
def test_black_pixels_of_bright_images_are_no_negative_counts(peak):
    """Their counts of 0 are rounded with the rest of the image."""
    noise = ops.PoissonNoise(peak=peak)
    y = noise.sample(KEY, jnp.full(SHAPE, -1.0))
    validate_problem(ops.Problem(y=y, operator=ops.Identity(shape=SHAPE), noise=noise))
    wrong = ops.Problem(y=y - 1e-3, operator=ops.Identity(shape=SHAPE), noise=noise)
    with pytest.raises(ValueError, match="negative photon counts"):
        validate_problem(wrong)


@pytest.mark.parametrize("peak", [10**10, np.int64(10**10), np.asarray(10**10)])
def test_a_peak_beyond_int32_is_no_other_peak(peak):
    """As a leaf of a compiled program it would be 1410065408 photons, or an error."""
    noise, exact = (ops.PoissonNoise(peak=v) for v in (peak, 1e10))
    z = _image()
    y = exact.sample(KEY, z)
    np.testing.assert_array_equal(noise.sample(KEY, z), y)
    found, expected = (n.neg_log_likelihood(y, z) for n in (noise, exact))
    assert found == expected
    problem = ops.Problem(y=y, operator=ops.Identity(shape=SHAPE), noise=noise)
    with pytest.raises(ValueError, match="expected a float"):
        validate_problem(problem)
    small = ops.PoissonNoise(peak=100)
    validate_problem(
        ops.Problem(y=z, operator=ops.Identity(shape=SHAPE), noise=small), SHAPE
    )
