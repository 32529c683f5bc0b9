"""STSL: the trace of a score's Jacobian, and what is left of it for a Gaussian."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import NoiseLevel
from diffctl.priors import GaussianMixturePrior, LatentDiffusionPrior
from diffctl.solvers import LDPS, STSL, solve
from diffctl.solvers.costs import squared_residual
from diffctl.solvers.latent.stsl import score_trace
from tests.solvers.bed import draws
from tests.solvers.latent.bed import LATENT, grid, latent_bed
from tests.tolerances import EXACT64

KEY = jax.random.key(22)
SIGMA = 0.7


def _mixture():
    rng = np.random.default_rng(5)
    covariances = np.stack([0.2 * np.eye(LATENT), np.diag([0.1, 0.3, 0.5])])
    return GaussianMixturePrior.from_moments(
        [0.4, 0.6], rng.normal(size=(2, LATENT)), covariances
    )


@jax.jit
def _trace(prior, z, size):
    """The average of the estimate over a basis, which is its mean over probes."""
    clean = prior.denoise(z, SIGMA)
    basis = size * jnp.eye(LATENT)
    probes = jax.vmap(lambda probe: score_trace(prior, z, clean, SIGMA, probe))(basis)
    return jnp.sum(probes) / size**2


@jax.jit
def _hessian(prior, z):
    return jax.hessian(lambda z: prior.log_density(z, SIGMA))(z)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [1e-2, 1.0, 30.0])
def test_the_trace_of_a_gaussian_is_exact_for_every_probe(size):
    law, z = latent_bed(), jnp.linspace(-1.0, 2.0, LATENT)
    precision = np.linalg.inv(law.covariance + SIGMA**2 * np.eye(LATENT))
    found = _trace(law.gaussian(), z, size)
    np.testing.assert_allclose(found, -np.trace(precision), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_small_probes_give_the_hessian_of_a_mixture():
    prior, z = _mixture(), jnp.linspace(-1.0, 1.0, LATENT)
    hessian = _hessian(prior, z)
    gaps = [
        abs(_trace(prior, z, size) - jnp.trace(hessian)) for size in (1e-1, 1e-2, 1e-3)
    ]
    # Odd orders do not cancel between e and -e: the error is of first order.
    assert gaps[2] < 1e-2 * abs(jnp.trace(hessian))
    assert gaps[2] < 0.2 * gaps[1] < 0.08 * gaps[0]


@pytest.mark.usefixtures("x64")
def test_the_surrogate_adds_the_trace_with_the_weight_of_the_bound():
    """Cov = sigma^2 (I + sigma^2 H): its gradient along the probe, by autodiff."""
    law, z = latent_bed(), jnp.linspace(-1.0, 1.0, LATENT)
    prior = LatentDiffusionPrior.create(law.prior().autoencoder, _mixture())
    sigma = jnp.asarray(SIGMA)
    level = NoiseLevel(sigma=sigma, scale=jnp.ones(()), time=sigma)
    guided = LDPS(grid=grid(), cost=squared_residual, guidance_scale=0.1)

    def gradient(trace_scale):
        solver = STSL(guided=guided, trace_scale=trace_scale, probe_scale=1e-4)
        return jax.jit(jax.grad(solver.surrogate))(z, level, KEY, law.problem(), prior)

    probe = jax.random.normal(jax.random.split(KEY)[0], (LATENT,))

    def curvature(z):
        return SIGMA**4 * probe @ _hessian(prior.latent, z) @ probe

    expected = 0.3 * jax.jit(jax.grad(curvature))(z)
    assert jnp.max(jnp.abs(expected)) > 1e-2
    # First order in the probe: measured 6e-4.
    np.testing.assert_allclose(gradient(0.3) - gradient(0.0), expected, rtol=5e-3)


@pytest.mark.usefixtures("x64")
def test_for_a_gaussian_it_is_the_first_order_method():
    law, levels, repeats = latent_bed(), np.asarray(grid().sigma), 2
    guided = LDPS(grid=grid(), cost=squared_residual, guidance_scale=0.01)
    solver = STSL(guided=guided, trace_scale=0.8, num_repeats=repeats)
    found = solve(KEY, law.problem(), law.prior(), solver)
    z = np.sqrt(1 + levels[0] ** 2) * draws(KEY, (LATENT,), 1)[0]
    both = law.matrix @ law.decoder
    for now, next in itertools.pairwise(levels):
        for _ in range(repeats):
            pull = law.jacobian(now).T @ both.T @ law.residual(law.denoise(z, now))
            z = z - (1 + now**2) * 0.02 * pull
        clean = law.denoise(z, now)
        z = clean + next / now * (z - clean)
    np.testing.assert_allclose(found.x, law.decode(z), **EXACT64)
    assert found.stats.nfe_fwd == grid().num_steps * (2 * repeats + 1)
