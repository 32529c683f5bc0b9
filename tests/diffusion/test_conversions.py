"""Conversions: round trips, VP definitions written out, and Tweedie's covariance."""

import chex
import jax
import jax.numpy as jnp
import pytest

from diffctl.diffusion import conversions
from diffctl.priors import GaussianMixturePrior, GaussianPrior
from tests.tolerances import EXACT64

PAIRS = {
    "eps": (conversions.eps_from_x0, conversions.x0_from_eps),
    "score": (conversions.score_from_x0, conversions.x0_from_score),
    "v": (conversions.v_from_x0, conversions.x0_from_v),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PAIRS)
def test_round_trip(name):
    from_x0, to_x0 = PAIRS[name]
    x0_hat, x = jax.random.normal(jax.random.key(0), (2, 3, 4))

    @jax.jit
    @jax.vmap
    def back(sigma):
        return to_x0(from_x0(x0_hat, x, sigma), x, sigma)

    found = back(jnp.array([0.3, 1.0, 7.0]))
    chex.assert_trees_all_close(found, jnp.stack([x0_hat] * 3), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_against_the_definitions_in_vp_coordinates():
    x0, eps = jax.random.normal(jax.random.key(1), (2, 6))
    cumprod = jnp.asarray(0.37)
    sigma = conversions.sigma_from_alphas_cumprod(cumprod)
    x_vp = jnp.sqrt(cumprod) * x0 + jnp.sqrt(1 - cumprod) * eps
    x = conversions.canonical_from_vp(x_vp, sigma)
    v_pred = jnp.sqrt(cumprod) * eps - jnp.sqrt(1 - cumprod) * x0
    found = [
        x,
        conversions.vp_from_canonical(x, sigma),
        conversions.eps_from_x0(x0, x, sigma),
        conversions.v_from_x0(x0, x, sigma),
        conversions.x0_from_v(v_pred, x, sigma),
        # The VP score is the canonical one divided by the scale sqrt(alphas_cumprod).
        conversions.score_from_x0(x0, x, sigma) / jnp.sqrt(cumprod),
        conversions.alphas_cumprod_from_sigma(sigma),
    ]
    vp_score = -eps / jnp.sqrt(1 - cumprod)
    expected = [x0 + sigma * eps, x_vp, eps, v_pred, x0, vp_score, cumprod]
    chex.assert_trees_all_close(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_posterior_covariance_of_a_gaussian():
    covariance = jnp.array([[1.0, 0.4, 0.1], [0.4, 0.8, -0.2], [0.1, -0.2, 0.5]])
    prior = GaussianPrior.from_moments(jnp.array([0.1, -0.3, 0.5]), covariance)
    sigma = jnp.asarray(0.7)
    total = covariance + sigma**2 * jnp.eye(3)
    expected = sigma**2 * jnp.linalg.solve(total, covariance)
    x = jnp.array([0.4, 1.0, -2.0])
    found = jax.vmap(lambda v: conversions.posterior_cov_vp(prior, x, sigma, v))(
        jnp.eye(3)
    )
    chex.assert_trees_all_close(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_posterior_covariance_of_a_mixture():
    # Two points at -1 and 1: x0 is a biased coin given x, with variance 1 - mean^2.
    prior = GaussianMixturePrior.from_moments(
        [0.5, 0.5], jnp.array([[-1.0], [1.0]]), jnp.zeros((2, 1, 1))
    )
    x, sigma = jnp.array([0.3]), jnp.asarray(0.8)
    found = conversions.posterior_cov_vp(prior, x, sigma, jnp.ones(1))
    chex.assert_trees_all_close(found, 1 - jnp.tanh(x / sigma**2) ** 2, **EXACT64)
