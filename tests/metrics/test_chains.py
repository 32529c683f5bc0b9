"""Split R-hat against closed forms and the scatter of independent draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.metrics import split_r_hat
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


@pytest.mark.parametrize("shape", [(8,), (4, 3)])
def test_too_few_draws_are_refused(shape):
    with pytest.raises(ValueError, match="at least 4 draws"):
        split_r_hat(jnp.zeros(shape))
