"""Flash-Diffusion: where it starts, with what law, and that it goes on from there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import Ancestral, NoiseGrid
from diffctl.priors import LinearAutoencoder, SeverityEncoderPrior, severity_loss
from diffctl.pytree import pytree_dataclass
from diffctl.solvers import LDPS, FlashDiffusion, solve
from diffctl.solvers.latent.base import scaled_linear_grid
from diffctl.solvers.latent.flash import (
    bare_start,
    noised_start,
    start_level,
    unscaled_start,
)
from tests.affine import affine_map
from tests.solvers.latent.bed import LATENT, SIZE, grid, latent_bed
from tests.tolerances import EXACT64

KEY = jax.random.key(24)


@pytree_dataclass
class Encoder:
    """A severity encoder: a matrix, and the same variance for every measurement."""

    matrix: jax.Array
    variance: jax.Array

    def __call__(self, y):
        return jnp.matmul(self.matrix, y, precision="highest"), self.variance


def _prior(variance=0.5):
    law = latent_bed()
    rng = np.random.default_rng(6)
    encoder = Encoder(
        matrix=jnp.asarray(rng.normal(size=(LATENT, law.y.size))),
        variance=jnp.asarray(variance),
    )
    autoencoder = law.prior().autoencoder
    return SeverityEncoderPrior.create(
        autoencoder, law.gaussian(), severity_encoder=encoder
    )


def test_the_level_is_monotone_in_the_severity():
    sigma = np.geomspace(50.0, 0.01, 40)
    severities = np.geomspace(1e-4, 1e5, 60)
    select = jax.vmap(lambda v: start_level(jnp.asarray(sigma), v))
    levels = np.asarray(select(jnp.asarray(severities)))
    assert np.all(np.diff(levels) <= 0)
    assert (levels[0], levels[-1]) == (39, 0)
    # At a level of the grid it is that one.
    assert start_level(jnp.asarray(sigma), jnp.asarray(sigma[17] ** 2)) == 17


@pytest.mark.usefixtures("x64")
def test_the_start_has_the_published_law():
    """N(sqrt(1 - c v) z_hat, c v I) in variance-preserving coordinates."""
    sigma = jnp.asarray(0.8)
    for share in (0.0, 0.3, 0.7):
        found = affine_map(
            lambda z, e, share=share: (
                noised_start(z, jnp.asarray(share), sigma, e) / jnp.sqrt(1 + sigma**2)
            ),
            (LATENT,),
        )
        eye = np.eye(LATENT)
        np.testing.assert_allclose(found.matrix, np.sqrt(1 - share) * eye, **EXACT64)
        np.testing.assert_allclose(found.noise, np.sqrt(share) * eye, **EXACT64)
        np.testing.assert_allclose(found.offset, 0, **EXACT64)
    limited = noised_start(jnp.ones(LATENT), jnp.asarray(3.0), sigma, jnp.ones(LATENT))
    assert jnp.all(jnp.isfinite(limited))


@pytest.mark.usefixtures("x64")
def test_which_start_has_the_law_of_the_level():
    """White errors of variance v = sigma^2: the bare estimate is N(m, C + v I)."""
    law, variance = latent_bed(), 0.4
    sigma = jnp.sqrt(jnp.asarray(variance))
    rough = law.covariance + variance * np.eye(LATENT)

    def covariance(start):
        found = affine_map(
            lambda z, e: start(z, jnp.asarray(variance), sigma, e), (LATENT,)
        )
        spread = np.asarray(found.noise) @ np.asarray(found.noise).T
        return np.asarray(found.matrix) @ rough @ np.asarray(found.matrix).T + spread

    np.testing.assert_allclose(covariance(bare_start), rough, **EXACT64)
    np.testing.assert_allclose(
        covariance(unscaled_start), (1 + variance) * rough, **EXACT64
    )
    gain = (1 + variance) * (1 - variance)
    white = variance + variance / (1 - variance)  # relative to the signal
    expected = gain * (law.covariance + white * np.eye(LATENT))
    np.testing.assert_allclose(covariance(noised_start), expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_it_goes_on_from_the_start_and_counts_what_is_left():
    start, law, levels = 3, latent_bed(), np.asarray(grid().sigma)
    prior = _prior(variance=levels[start] ** 2)
    inner = LDPS(grid=grid(), guidance_scale=0.5)
    solver = FlashDiffusion(inner=inner, correction=0.01)
    found = solve(KEY, law.problem(), prior, solver)

    latent, variance = prior.estimate_latent(law.problem().y)
    noise = jax.random.normal(jax.random.split(KEY)[0], (LATENT,))
    rough = noised_start(latent, 0.01 * variance, jnp.asarray(levels[start]), noise)
    rest = NoiseGrid.from_sigmas(levels[start:-1])
    z, step = rough, jax.jit(inner.step)
    for i in range(rest.num_steps):
        at = jax.tree.map(lambda leaf, i=i: leaf[i], rest.pairs())
        z, _ = step(z, (*at, KEY), law.problem(), prior)
    np.testing.assert_allclose(found.x, law.decode(np.asarray(z)), **EXACT64)
    assert found.stats.nfe_fwd == found.stats.nvjp == 5 - start
    waiting = law.problem().misfit(prior.decode(latent))
    np.testing.assert_allclose(found.stats.misfit[:start], waiting, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_resample_goes_on_from_the_start():
    """Its stages are those of the levels that are left, and its last fit is made."""
    levels = scaled_linear_grid(16, 0.0015, 0.0195)
    sigma, start = np.asarray(levels.sigma), 5
    law, prior = latent_bed(), _prior(variance=sigma[start] ** 2)
    released = FlashDiffusion.released_resample("gaussian_deblurring", levels)
    fit = dataclasses.replace(released.inner.pixels, num_steps=4)
    inner = dataclasses.replace(released.inner, pixels=fit, latents=fit, every=3)
    solver = dataclasses.replace(released, inner=inner, correction=0.01)
    found = solve(KEY, law.problem(), prior, solver)

    noise_key, inner_key = jax.random.split(KEY)
    latent, variance = prior.estimate_latent(law.problem().y)
    noise = jax.random.normal(noise_key, (LATENT,))
    z = noised_start(latent, 0.01 * variance, levels.sigma[start], noise)
    _, xs = inner.init(inner_key, law.problem(), prior)

    @jax.jit
    def go_on(z, left):
        def step(z, at):
            return inner.step(z, at, law.problem(), prior)[0], None

        return inner.finalize(jax.lax.scan(step, z, left)[0], law.problem(), prior)

    expected = go_on(z, jax.tree.map(lambda leaf: leaf[start:], xs))
    np.testing.assert_allclose(found.x, expected, **EXACT64)
    stages = np.asarray(xs[3])[start:]
    assert set(stages) == {0, 1, 2}
    assert found.stats.nfe_fwd == stages.size + np.sum(stages > 0)


def test_the_inner_solver_is_checked():
    law = latent_bed()
    solver = FlashDiffusion(inner=LDPS(grid=grid()))
    with pytest.raises(TypeError, match="needs a SeverityPrior as prior"):
        solve(KEY, law.problem(), law.prior(), solver)


def test_released_settings():
    ldps = FlashDiffusion.released_ldps("gaussian_deblurring", grid())
    gml = FlashDiffusion.released_gml_dps("random_inpainting", grid())
    psld = FlashDiffusion.released_psld("gaussian_deblurring_varying", grid())
    assert (ldps.inner.guidance_scale, ldps.correction) == (3.0, 1.2)
    assert (gml.inner.guidance_scale, gml.inner.gluing_scale) == (10.0, 0.05)
    assert (psld.inner.guidance_scale, psld.inner.gluing_scale) == (2.0, 0.2)
    assert isinstance(psld.inner.reverse, Ancestral)
    resample = FlashDiffusion.released_resample("random_inpainting", grid())
    assert (resample.inner.gamma, resample.correction) == (200.0 * 5 / 1000, 1.2)


@pytest.mark.usefixtures("x64")
def test_the_loss_of_the_severity_encoder():
    law, prior = latent_bed(), _prior(variance=0.3)
    x = np.linspace(-1, 1, SIZE)
    estimate, _ = prior.estimate_latent(jnp.asarray(law.y))
    error = np.asarray(estimate) - law.encode(x)
    image = law.decode(np.asarray(estimate)) - x
    expected = np.mean(error**2) + 0.5 * (np.var(error) - 0.3) ** 2
    expected += 0.2 * np.mean(image**2)
    found = severity_loss(
        prior,
        jnp.asarray(x),
        jnp.asarray(law.y),
        severity_weight=0.5,
        image_weight=0.2,
    )
    np.testing.assert_allclose(found, expected, **EXACT64)


def test_an_autoencoder_of_another_latent_is_refused():
    autoencoder = LinearAutoencoder.from_decoder(np.eye(SIZE)[:, :LATENT])
    prior = _prior()
    wider = dataclasses.replace(autoencoder, encoder=jnp.ones((LATENT + 1, SIZE)))
    with pytest.raises(ValueError, match="latents of shape"):
        SeverityEncoderPrior.create(
            wider, prior.latent, severity_encoder=prior.severity_encoder
        )
    with pytest.raises(ValueError, match="rank 1"):
        LinearAutoencoder.from_decoder(np.ones((SIZE, 2)))
