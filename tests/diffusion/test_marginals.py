"""Laws of whole chains, by affine propagation, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import ddpm, karras, vp_uniform
from diffctl.priors import GaussianPrior
from tests.affine import affine_map, propagate
from tests.diffusion.textbook import STEPS, gaussian, textbook
from tests.tolerances import EXACT64


@jax.jit
def chain(step, law, grid):
    """Every step of `grid` as an affine map, with the denoiser of `law`; d = 3."""

    @jax.vmap
    def probe(now, after):
        return affine_map(lambda x, z: step(law, x, now, after, z), (3,))

    return probe(*grid.pairs())


@jax.jit
def spread_left_out(step, law, grid):
    """on_x0 * root of Cov[x0 | x] at every step, (T, d, d)."""

    @jax.vmap
    def root(now, after):
        on_x0, _ = step.mean_coefficients(now, after)
        shrink = law.eigenvalues / (law.eigenvalues + now.sigma**2)
        return on_x0 * now.sigma * law.eigenvectors * jnp.sqrt(shrink)[None, :]

    return root(*grid.pairs())


moments_along = jax.jit(propagate)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["euler", "ddim", "ddim_1", "ancestral", "renoise"])
def test_marginals_are_exact_for_a_posterior_draw(name):
    """x' = on_x0 * x0 + on_x * x + std * z keeps the marginals if x0 ~ p(x0 | x).

    The step uses the mean of p(x0 | x) instead; adding the covariance that this leaves
    out must give the exact law N(m, C + s'^2 I) at every level.
    """
    step, law, grid = STEPS[name], gaussian(), ddpm(6)
    maps = chain(step, law, grid)
    noise = jnp.concatenate([maps.noise, spread_left_out(step, law, grid)], axis=2)
    covariance, sigma = np.asarray(law.covariance()), np.asarray(grid.sigma)
    start = covariance + sigma[0] ** 2 * np.eye(3)
    means, covariances = moments_along(maps._replace(noise=noise), law.mean, start)
    np.testing.assert_allclose(means, np.tile(law.mean, (6, 1)), **EXACT64)
    expected = covariance + sigma[1:, None, None] ** 2 * np.eye(3)
    np.testing.assert_allclose(covariances, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["ancestral", "large", "sde"])
def test_marginals_of_the_stochastic_chains(name):
    """Canonical matrix propagation against scalar textbook recursions.

    In an eigen-direction of variance w the denoiser is x0_hat = k x_t / scale with
    k = w / (w + sigma^2); the textbook step then is x_s = a x_t + b z.
    """
    step, law, grid = STEPS[name], gaussian(), vp_uniform(6)
    start = float(grid.sigma[0]) ** 2 * np.eye(3)
    maps = chain(step, law, grid)
    means, covariances = moments_along(maps, np.zeros(3), start)
    variance = np.full(3, float(grid.sigma[0]) ** 2 * float(grid.scale[0]) ** 2)
    shift = -np.asarray(law.eigenvectors.T @ law.mean)  # of the state, relative to m
    offset = shift * float(grid.scale[0])
    scale, time = np.asarray(grid.scale), np.asarray(grid.time)
    for i in range(grid.num_steps - 1):
        ab_t, ab_s = scale[i] ** 2, scale[i + 1] ** 2
        levels = (ab_t, ab_s, 0.1 + 19.9 * time[i], time[i] - time[i + 1])
        sigma2 = (1 - ab_t) / ab_t
        x0_hat = np.asarray(law.eigenvalues / (law.eigenvalues + sigma2)) / scale[i]
        gain, _ = textbook(name, np.ones(3), x0_hat, 0.0, levels)
        noise, _ = textbook(name, np.zeros(3), np.zeros(3), 1.0, levels)
        variance, offset = gain**2 * variance + noise**2, gain * offset
        rotated = law.eigenvectors.T @ covariances[i] @ law.eigenvectors
        expected = np.diag(variance / ab_s)
        np.testing.assert_allclose(
            rotated, expected, rtol=1e-10, atol=1e-10 * expected.max()
        )
        if name != "sde":  # its drift also contracts m, which the recursion centres
            moved = law.eigenvectors.T @ (means[i] - law.mean)
            np.testing.assert_allclose(moved, offset / scale[i + 1], **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["ddim", "ancestral", "renoise"])
def test_oracle_denoiser_keeps_the_marginals(name):
    step, grid = STEPS[name], karras(6)
    truth = np.array([0.3, -0.8, 0.1])
    oracle = GaussianPrior.from_moments(truth, np.zeros((3, 3)))
    sigma = np.asarray(grid.sigma)
    maps = chain(step, oracle, grid)
    means, covariances = moments_along(maps, truth, sigma[0] ** 2 * np.eye(3))
    np.testing.assert_allclose(means, np.tile(truth, (6, 1)), **EXACT64)
    expected = sigma[1:, None, None] ** 2 * np.eye(3)
    np.testing.assert_allclose(covariances, expected, **EXACT64)
