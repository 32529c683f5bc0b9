"""Split R-hat and the effective number of draws against closed forms and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffctl.metrics import bulk_ess, split_r_hat
from tests.tolerances import EXACT64, stat


@pytest.mark.usefixtures("x64")
def test_independent_draws_give_one_up_to_their_scatter():
    """R^2 - 1 scatters by sqrt(2 / (M - 1)) / N; M = 100 halves, N = 40, k = 4."""
    draws = jax.random.normal(jax.random.key(1), (50, 81, 2, 3))
    excess = split_r_hat(draws) ** 2 - 1
    assert excess.shape == (2, 3)
    assert jnp.max(jnp.abs(excess)) < np.sqrt(2) * stat(99) / 40
    assert jnp.max(jnp.abs(excess)) > 1e-4


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("centres", [[0.5, -0.5, 2.0], [0.0, 0.0, 0.0]])
def test_shifted_chains(centres):
    """Sequences centre +- 1: W = N / (N - 1), B / N the variance of the centres."""
    half = 6
    signs = np.tile([1.0, -1.0], half)
    chains = np.asarray(centres)[:, None] + signs[None, :]
    spread = np.var(np.repeat(centres, 2), ddof=1)
    expected = np.sqrt((1 + spread) * (half - 1) / half)
    np.testing.assert_allclose(split_r_hat(jnp.asarray(chains)), expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_a_drifting_chain_disagrees_with_itself():
    """Halves at 0 and at 3; the first of nine draws is left out."""
    signs = np.tile([1.0, -1.0], 4)
    chain = np.append(100.0, signs + np.repeat([0.0, 3.0], 4))
    found = split_r_hat(jnp.asarray(chain[None]))
    np.testing.assert_allclose(found, np.sqrt((1 + 4.5) * 3 / 4), **EXACT64)


def test_chains_that_stand_still():
    stuck = jnp.stack([jnp.zeros(8), jnp.ones(8)])
    assert jnp.isinf(split_r_hat(stuck))
    assert jnp.isnan(split_r_hat(jnp.zeros((2, 8))))
    # Every correlation is 1: N for the sum of (6), so M N / (2 N - 1).
    assert bulk_ess(stuck) == pytest.approx(4 * 4 / 7)
    assert jnp.isnan(bulk_ess(jnp.zeros((2, 8))))


@pytest.mark.parametrize("value", [0.1, -1e7 / 3, 1e-30, 1e30])
@pytest.mark.parametrize("length", [8, 15])
def test_equal_draws_say_nothing(value, length):
    """Whatever the rounding of their mean is."""
    chains = jnp.full((3, length, 2), value)
    assert np.all(np.isnan(split_r_hat(chains)))
    assert np.all(np.isnan(bulk_ess(chains)))
    stuck = chains * jnp.asarray([1.0, 0.7, 1.1])[:, None, None]
    assert np.all(np.isinf(split_r_hat(stuck)))


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("diagnose", [split_r_hat, bulk_ess])
def test_one_draw_that_is_not_finite_leaves_nothing_to_say(diagnose, bad):
    chains = jax.random.normal(jax.random.key(4), (4, 40, 3))
    for place in ((0, 0), (2, 17), (3, 39)):
        found = diagnose(chains.at[*place, 1].set(bad))
        assert np.isnan(found[1])
        assert np.all(np.isfinite(found[::2]))


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_the_unit_of_the_draws_does_not_matter(unit):
    chains = jax.random.normal(jax.random.key(5), (4, 40)) + jnp.arange(4.0)[:, None]
    for diagnose in (split_r_hat, bulk_ess):
        found = diagnose(unit * chains)
        np.testing.assert_allclose(found, diagnose(chains), rtol=1e-5)


def test_an_offset_of_the_draws_does_not_matter():
    """Multiples of 1/64 are exact beside 1e5 in float32."""
    chains = jnp.round(64 * jax.random.normal(jax.random.key(6), (4, 40))) / 64
    for diagnose in (split_r_hat, bulk_ess):
        np.testing.assert_allclose(diagnose(chains + 1e5), diagnose(chains), rtol=1e-6)


def test_counts_are_draws_as_well():
    counts = jax.random.randint(jax.random.key(7), (3, 40), 0, 9).astype(jnp.uint8)
    for diagnose in (split_r_hat, bulk_ess):
        np.testing.assert_allclose(diagnose(counts), diagnose(1.0 * counts), rtol=1e-6)


@pytest.mark.parametrize("shape", [(8,), (4, 3)])
@pytest.mark.parametrize("diagnose", [split_r_hat, bulk_ess])
def test_too_few_draws_are_refused(shape, diagnose):
    with pytest.raises(ValueError, match="at least 4 draws"):
        diagnose(jnp.zeros(shape))


def _autoregression(correlation, num_chains, num_draws):
    """Return stationary chains x' = a x + sqrt(1 - a^2) z of law N(0, 1)."""
    noise = np.random.default_rng(3).normal(size=(num_draws, num_chains))
    draws = [noise[0]]
    for z in noise[1:]:
        draws.append(correlation * draws[-1] + np.sqrt(1 - correlation**2) * z)
    return np.stack(draws, axis=1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("correlation", [0.9, 0.5, 0.0, -0.5])
def test_effective_draws_of_an_autoregression(correlation):
    """ESS = S (1 - a) / (1 + a), whatever increasing function of the draws is taken.

    Over 8 seeds the ratio to it is 1.00 to 1.01, with standard deviations of 0.026,
    0.018, 0.004 and 0.013; k = 4 of the largest.
    """
    chains = _autoregression(correlation, 10, 20_000)
    expected = chains.size * (1 - correlation) / (1 + correlation)
    found = float(bulk_ess(jnp.asarray(chains)))
    assert found == pytest.approx(expected, rel=0.1)
    assert bulk_ess(jnp.exp(3 * jnp.asarray(chains))) == pytest.approx(found, rel=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("correlation", [0.8, -0.8])
def test_effective_draws_against_sums_in_loops(correlation):
    """Short chains with repeated draws, as after rejections: average ranks."""
    chains = np.round(_autoregression(correlation, 3, 41), 1)
    found = bulk_ess(jnp.asarray(chains))
    np.testing.assert_allclose(found, _ess_in_loops(chains), **EXACT64)


def _ess_in_loops(chains):
    """Equations (1), (3), (5), (6) and (7), one number after the other."""
    size = chains.shape[1] // 2
    halves = chains[:, chains.shape[1] % 2 :].reshape(-1, size)
    ranks = scipy.stats.rankdata(halves.ravel()).reshape(halves.shape)
    scores = scipy.stats.norm.ppf((ranks - 0.375) / (halves.size + 0.25))
    within = np.mean([np.var(row, ddof=1) for row in scores])
    variance = (size - 1) / size * within + np.var(
        [row.mean() for row in scores], ddof=1
    )

    def correlation(lag):
        if lag == 0:
            return 1.0
        products = [
            sum(
                (row[i] - row.mean()) * (row[i + lag] - row.mean())
                for i in range(size - lag)
            )
            for row in scores
        ]
        return 1 - (within - np.mean(products) / (size - 1)) / variance

    total, smallest = 0.0, np.inf
    for lag in range(0, size - 1, 2):
        pair = correlation(lag) + correlation(lag + 1)
        if pair <= 0:
            break
        smallest = min(smallest, pair)
        total += smallest
    return halves.size / max(2 * total - 1, 1 / np.log10(halves.size))
