"""Resampling: unbiased, low variance, and safe for extreme weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.solvers.monte_carlo.resampling import (
    NeverResample,
    ResampleAlways,
    ResampleWhenDegenerate,
    ancestors,
    effective_sample_size,
    log_mean_weight,
    multinomial,
    systematic,
)
from tests.tolerances import EXACT32, stat

WEIGHTS = np.asarray([0.02, 0.4, 0.0, 0.13, 0.35, 0.1])
SIZE, DRAWS = WEIGHTS.size, 4000
KEYS = jax.random.split(jax.random.key(3), DRAWS)


def _log_weights():
    return jnp.where(jnp.asarray(WEIGHTS) > 0, jnp.log(jnp.asarray(WEIGHTS)), -1e5)


def _counts(scheme, log_weights):
    chosen = jax.vmap(scheme, in_axes=(0, None))(KEYS, log_weights)
    return np.asarray(jax.vmap(lambda row: jnp.bincount(row, length=SIZE))(chosen))


@pytest.mark.parametrize("scheme", [systematic, multinomial])
def test_it_is_unbiased(scheme):
    """E[copies of j] = N W_j, whatever the scale of the weights."""
    counts = _counts(scheme, _log_weights() - 700)
    error = np.abs(counts.mean(axis=0) - SIZE * WEIGHTS)
    assert np.all(error <= stat(DRAWS) * np.sqrt(SIZE * WEIGHTS))
    assert np.all(counts[:, WEIGHTS == 0] == 0)


def test_variances_of_the_copies():
    """N W (1 - W) for independent draws; frac (1 - frac) of N W for systematic ones."""
    drawn = _counts(multinomial, _log_weights()).var(axis=0)
    fraction = (SIZE * WEIGHTS) % 1
    spread = _counts(systematic, _log_weights()).var(axis=0)
    # Sample variances of 4000 draws: within 10 % (4 standard errors are 9 %).
    np.testing.assert_allclose(drawn, SIZE * WEIGHTS * (1 - WEIGHTS), rtol=0.1)
    np.testing.assert_allclose(spread, fraction * (1 - fraction), rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("position", [0.0, 0.3, 1 - 2.0**-24, 1.0])
def test_every_position_finds_a_particle_with_weight(position):
    chosen = ancestors(jnp.asarray([-1e4, 0.0, -1e4]), jnp.asarray(position))
    assert chosen == 1


def test_the_mean_weight_is_kept():
    log_weights = _log_weights()
    for policy in (NeverResample(), ResampleAlways(), ResampleWhenDegenerate()):
        _, after = policy(KEYS[0], log_weights)
        mean = log_mean_weight(after)
        np.testing.assert_allclose(mean, log_mean_weight(log_weights), **EXACT32)


def test_effective_sample_size():
    found = effective_sample_size(_log_weights() + 300)
    np.testing.assert_allclose(found, 1 / np.sum(WEIGHTS**2), rtol=1e-4)
    np.testing.assert_allclose(effective_sample_size(jnp.zeros(7)), 7, **EXACT32)


def test_it_waits_until_weights_are_unequal():
    """The ESS of the weights is 3.2 of 6."""
    for threshold, resampled in ((0.5, False), (0.6, True)):
        policy = ResampleWhenDegenerate(threshold=threshold)
        chosen, after = policy(KEYS[0], _log_weights())
        assert (jnp.ptp(after) == 0) == resampled
        assert jnp.array_equal(chosen, jnp.arange(SIZE)) != resampled


@pytest.mark.parametrize("offset", [-1e30, -1e7, 0.0, 1e7, 1e30])
def test_a_common_factor_of_the_weights_does_not_matter(offset):
    equal = jnp.full(4, offset)
    assert effective_sample_size(equal) == 4
    assert log_mean_weight(equal) == equal[0]
    for threshold in (0.5, 1.0):
        chosen, after = ResampleWhenDegenerate(threshold=threshold)(KEYS[0], equal)
        assert jnp.array_equal(chosen, jnp.arange(4))
        assert jnp.array_equal(after, equal)
    # Steps of 2 are exact beside 1e7 in float32.
    if abs(offset) <= 1e7:
        steps = jnp.asarray([0.0, -2.0, 4.0, -jnp.inf])
        for measure in (effective_sample_size, lambda w: systematic(KEYS[1], w)):
            found = measure(steps + offset)
            np.testing.assert_array_equal(found, measure(steps))


def test_weights_that_are_all_zero():
    none = jnp.full(5, -jnp.inf)
    assert effective_sample_size(none) == 0
    assert log_mean_weight(none) == -jnp.inf
    assert jnp.array_equal(systematic(KEYS[0], none), jnp.arange(5))
    counts = jnp.bincount(multinomial(KEYS[0], jnp.full(1000, -jnp.inf)), length=1000)
    assert jnp.max(counts) < 10
    _, after = ResampleWhenDegenerate()(KEYS[0], none)
    assert jnp.all(after == -jnp.inf)


def test_one_weight_that_is_not_zero_takes_it_all():
    only = jnp.full(5, -jnp.inf).at[3].set(-1e20)
    assert effective_sample_size(only) == 1
    for scheme in (systematic, multinomial):
        assert jnp.all(scheme(KEYS[0], only) == 3)
