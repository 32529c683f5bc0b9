"""Poisson deviances against float64, and draws against the moments of the law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from diffctl.numerics.poisson import MANY, half_deviance, poisson_counts
from tests.tolerances import EXACT32, EXACT64, FD64, stat

# Near the counts, on both sides of where the series ends, and far from them.
SHARES = np.array([1e-7, 0.1, 0.8, 0.81, 0.83, 0.999, 1, 1.0001, 1.2, 1.23, 1.3, 1e5])


def _cases():
    counts = np.array([0.0, 0.02, 1, 37, 1e4, 1e7])[:, None]
    rates = np.where(counts > 0, counts * SHARES, SHARES)
    return rates, np.broadcast_to(counts, rates.shape)


def _found(rates, counts, dtype):
    rates, counts = rates.astype(dtype), counts.astype(dtype)
    # The excess is known to full precision, as from two images.
    excess = (rates.astype(np.longdouble) - counts).astype(dtype)
    return rates, counts, excess


def _reference(rates, counts):
    """The deviance in extended precision, by the logarithm alone."""
    r, k = rates.astype(np.longdouble), counts.astype(np.longdouble)
    safe = np.where(k > 0, k, 1)
    gap = (r - k) / safe
    return np.where(k > 0, k * (gap - np.log1p(gap)), r)


@pytest.mark.parametrize("double", [False, True])
def test_deviance(double, request):
    if double:
        request.getfixturevalue("x64")
    rates, counts, excess = _found(*_cases(), np.float64 if double else np.float32)
    found = np.asarray(half_deviance(rates, counts, excess))
    # Beside the series the logarithm cancels a digit: 2.1e-6 measured in float32.
    tolerance = {"rtol": 1e-12} if double else {"rtol": 4e-6}
    np.testing.assert_allclose(found, _reference(rates, counts), atol=0, **tolerance)
    assert np.all(found[counts == rates] == 0)
    np.testing.assert_array_equal(found[0], rates[0])


@pytest.mark.parametrize("double", [False, True])
def test_derivatives_of_the_deviance(double, request):
    """(r - k) / r, then k / r^2 and -1 / r, also for counts of 0 and at the counts."""
    if double:
        request.getfixturevalue("x64")
    rates, counts, excess = _found(*_cases(), np.float64 if double else np.float32)
    rates, counts, excess = (jnp.ravel(v) for v in (rates, counts, excess))

    def slope(rate, counts, gap):
        # The excess moves with the rate but keeps its precise value.
        def energy(moved, counts):
            return half_deviance(moved, counts, gap + (moved - rate) - (counts - k))

        k = jax.lax.stop_gradient(counts)
        rate = jax.lax.stop_gradient(rate)
        return jax.grad(energy)(rate, counts)

    exact = EXACT64 if double else EXACT32
    found = jax.vmap(slope)(rates, counts, excess)
    np.testing.assert_allclose(found, excess / rates, **exact)

    def by_rate(rate, counts):
        return jax.grad(lambda r: half_deviance(r, counts, r - counts))(rate)

    curvature = jax.vmap(jax.grad(by_rate, (0, 1)))(rates, counts)
    np.testing.assert_allclose(curvature[0], counts / rates**2, **exact)
    np.testing.assert_allclose(curvature[1], -1 / rates, **exact)


@pytest.mark.usefixtures("x64")
def test_derivative_in_the_counts():
    rates, counts = (jnp.asarray(v[1:5]).ravel() for v in _cases())

    def energy(counts):
        return jnp.sum(half_deviance(rates, counts, rates - counts))

    found = jax.grad(energy)(counts)
    np.testing.assert_allclose(found, special.xlogy(1, counts / rates), **FD64)
    at_zero = jax.grad(energy)(jnp.zeros_like(counts))
    assert np.all(np.isfinite(at_zero)) and np.all(at_zero < -100)


@pytest.mark.parametrize("rate", [30.0, 0.9 * MANY, 1.1 * MANY, 1e6, 1e8, 3e9, 1e12])
def test_moments_of_draws(rate):
    """Mean, variance, skewness and kurtosis of 1e5 draws; k = 4."""
    n = 100_000
    drawn = np.asarray(poisson_counts(jax.random.key(2), jnp.full(n, rate)), float)
    np.testing.assert_array_equal(drawn, np.round(drawn))
    z = (drawn - np.float32(rate)) / np.sqrt(rate)
    assert abs(z.mean()) < stat(n)
    assert abs(np.mean(z**2) - 1) < np.sqrt(2 + 1 / rate) * stat(n)
    assert abs(np.mean(z**3) - rate**-0.5) < np.sqrt(15 + 60 / rate) * stat(n)
    assert abs(np.mean(z**4) - 3 - 1 / rate) < np.sqrt(96 + 700 / rate) * stat(n)
    assert len(np.unique(drawn)) > 40


def test_rates_of_both_kinds_and_zero_are_drawn_together():
    rates = jnp.array([0.0, 2.0, 2 * MANY, 1e10])
    keys = jax.random.split(jax.random.key(3), 4000)
    drawn = np.asarray(jax.vmap(lambda k: poisson_counts(k, rates))(keys), float)
    assert np.all(drawn[:, 0] == 0)
    gaps = drawn.mean(0) - np.asarray(rates, float)
    assert np.all(np.abs(gaps) <= np.sqrt(np.asarray(rates, float)) * stat(4000))
    correlation = np.corrcoef(drawn[:, 1:].T) - np.eye(3)
    assert np.all(np.abs(correlation) < stat(4000))
    few = jax.random.poisson(keys[0], rates[:2])
    np.testing.assert_array_equal(poisson_counts(keys[0], rates[:2]), few)
