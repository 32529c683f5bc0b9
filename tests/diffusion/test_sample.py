"""Sampling: Gaussian chains and mixtures by their moments, guided flows exactly."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import dawsn

from diffctl.core import DiffusionPrior
from diffctl.diffusion import Ancestral, Euler, Heun, ddpm, geometric, karras, sample
from diffctl.priors import GaussianMixturePrior, GaussianPrior
from diffctl.pytree import pytree_dataclass, static
from tests.affine import affine_map
from tests.tolerances import EXACT64, REORDER32, stat


def mixture():
    means = jnp.array([[-0.8, -0.4], [0.6, -0.5], [0.1, 0.9]])
    covariances = jnp.array(
        [[[0.04, 0.02], [0.02, 0.05]]] * 2 + [[[0.1, 0], [0, 0.02]]]
    )
    return GaussianMixturePrior.from_moments([0.5, 0.3, 0.2], means, covariances)


@pytest.mark.parametrize(
    ("grid", "step"),
    [(karras(24, sigma_max=20.0), Heun()), (ddpm(400), Ancestral())],
    ids=["heun", "ancestral"],
)
def test_moments_of_a_mixture(grid, step):
    prior, n = mixture(), 4000
    keys = jax.random.split(jax.random.key(7), n)
    run = jax.jit(
        jax.vmap(lambda key, prior: sample(key, prior, grid, step), (0, None))
    )
    x = run(keys, prior)
    chex.assert_type(x, jnp.float32)
    mean, covariance = prior.moments()
    # n = 4000, k = 4. The step error is below the bounds: with n = 40000 the means are
    # off by at most 0.01 standard deviations and the covariances by at most 0.009,
    # where the bounds are 0.063 standard deviations and 0.017 to 0.027.
    bound = stat(n) * jnp.sqrt(jnp.diagonal(covariance))
    assert bool(jnp.all(jnp.abs(jnp.mean(x, axis=0) - mean) < bound))
    outer = (x - mean[None])[:, :, None] * (x - mean[None])[:, None, :]
    bound = stat(n) * jnp.std(outer, axis=0)
    assert bool(jnp.all(jnp.abs(jnp.mean(outer, axis=0) - covariance) < bound))
    members = jax.vmap(lambda v: prior.log_responsibilities(v, jnp.asarray(0.05)))(x)
    shares = jnp.mean(jnp.exp(members), axis=0)
    weights = jnp.exp(prior.log_weights)
    assert bool(jnp.all(jnp.abs(shares - weights) < stat(n) * jnp.sqrt(weights)))


def test_one_example_does_not_depend_on_the_batch():
    prior, grid = mixture(), ddpm(5)
    keys = jax.random.split(jax.random.key(8), 3)
    batch = jax.jit(jax.vmap(lambda key: sample(key, prior, grid, Ancestral())))(keys)
    alone = jax.jit(lambda key: sample(key, prior, grid, Ancestral()))(keys[1])
    chex.assert_trees_all_close(batch[1], alone, **REORDER32)
    assert bool(jnp.all(batch[0] != batch[1]))


@pytest.mark.usefixtures("x64")
def test_deterministic_chain_of_a_gaussian():
    """DDIM(0) multiplies an eigen-direction by (w + s s') / (w + s^2) per step."""
    law = GaussianPrior.from_moments([[0.2, -0.1]], [[0.5, 0.3], [0.3, 0.4]])
    grid, key = karras(9), jax.random.key(9)
    found = sample(key, law, grid, Euler())
    sigma = np.asarray(grid.sigma)
    start = sigma[0] * jax.random.normal(jax.random.split(key)[0], (1, 2))
    centred = np.asarray(law.eigenvectors.T @ (start - law.mean).ravel())
    w = np.asarray(law.eigenvalues)[:, None]
    factors = (w + sigma[None, :-1] * sigma[None, 1:]) / (w + sigma[None, :-1] ** 2)
    expected = law.mean.ravel() + law.eigenvectors @ (
        np.prod(factors, axis=1) * centred
    )
    chex.assert_trees_all_close(found, expected.reshape(1, 2), **EXACT64)


@pytree_dataclass
class GuidedNormal(DiffusionPrior):
    """N(0, 1) with the likelihood score of DPS, J (y - x0_hat) / noise_std^2, added."""

    y: jax.Array
    noise_std: jax.Array
    shape: tuple[int, ...] = static(default=(1,))

    def denoise(self, x, sigma):
        shrink = 1 / (1 + sigma**2)
        guidance = shrink * (self.y - shrink * x) / self.noise_std**2
        return shrink * x + sigma**2 * guidance


@pytest.mark.usefixtures("x64")
def test_guided_flows_in_closed_form():
    """DPS as an ODE is not the posterior: its mean is a Dawson function, its variance
    exp(-1/noise_std^2). The exact conditional denoiser gives the posterior.
    """
    grid = geometric(1500, 1e-4, 1e5)
    y = jnp.ones(1)
    normal = GaussianPrior.from_moments(np.zeros(1), np.eye(1))

    @jax.jit
    def moments(prior):
        def flow(start, _):
            move = lambda x, levels: (Heun()(prior, x, *levels), None)  # noqa: E731
            return jax.lax.scan(move, grid.sigma[0] * start, grid.pairs())[0]

        found = affine_map(flow, (1,))
        return found.offset[0], found.matrix[0, 0] ** 2

    for noise_std, mean, variance in [
        (0.5, 1.279976, 0.018316),
        (0.7, 1.085427, 0.129923),
        (1.0, 0.724778, 0.367879),
    ]:
        kappa = 1 / noise_std**2
        dps = moments(GuidedNormal(y=y, noise_std=jnp.asarray(noise_std)))
        closed = (
            math.sqrt(2 * kappa) * dawsn(math.sqrt(kappa / 2)),
            math.exp(-kappa),
        )
        np.testing.assert_allclose(closed, (mean, variance), atol=6e-7)
        # Steps of 1.4 % in sigma: measured 2.5e-4.
        np.testing.assert_allclose(dps, closed, rtol=1e-3)
        exact = moments(normal.posterior(y, jnp.ones((1, 1)), jnp.asarray(noise_std)))
        truth = (1 / (1 + noise_std**2), noise_std**2 / (1 + noise_std**2))
        np.testing.assert_allclose(exact, truth, rtol=1e-3)
