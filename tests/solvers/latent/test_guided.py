"""LDPS, GML-DPS and PSLD against recursions written out in NumPy."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import Ancestral, Euler
from diffctl.operators import FunctionOperator, GaussianNoise, Mask, Problem
from diffctl.priors import GaussianPrior, LatentDiffusionPrior, LinearAutoencoder
from diffctl.solvers import (
    DPS,
    GMLDPS,
    LDPS,
    PSLD,
    TDS,
    InLatentSpace,
    PiGDM,
    PnPDM,
    likelihood,
    solve,
)
from diffctl.solvers.dps import exact_unit
from diffctl.solvers.latent.psld import (
    adjoint_correction,
    cubic_correction,
    pseudo_inverse_correction,
    residual_correction,
)
from tests.solvers.bed import draws
from tests.solvers.latent.bed import LATENT, NOISE_STD, SIZE, grid, latent_bed, unit
from tests.tolerances import EXACT64

KEY = jax.random.key(21)
SCALE, GLUING = 0.6, 0.4


def _data(law, z):
    return SCALE * (law.matrix @ law.decoder).T @ unit(law.residual(z))


def _gluing(law, z):
    off = z - law.encode(law.decode(z))
    return GLUING * (np.eye(LATENT) - law.encoder @ law.decoder).T @ unit(off)


def _psld(law, z):
    off = law.encode(law.decode(z) - law.matrix.T @ law.residual(z)) - z
    slope = law.encoder @ (np.eye(SIZE) - law.matrix.T @ law.matrix) @ law.decoder
    return _data(law, z) + GLUING * (slope - np.eye(LATENT)).T @ unit(off)


SCALES = {"guidance_scale": SCALE, "gluing_scale": GLUING}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("make", "gradient"),
    [
        (lambda: LDPS(grid=grid(), guidance_scale=SCALE), _data),
        (
            lambda: GMLDPS(grid=grid(), **SCALES),
            lambda law, z: _data(law, z) + _gluing(law, z),
        ),
        (lambda: PSLD(grid=grid(), **SCALES), _psld),
    ],
    ids=["ldps", "gml_dps", "psld"],
)
def test_steps_are_the_recursion_of_matrices(make, gradient):
    law, levels = latent_bed(), np.asarray(grid().sigma)
    found = solve(KEY, law.problem(), law.prior(), make())
    z = np.sqrt(1 + levels[0] ** 2) * draws(KEY, (LATENT,), 1)[0]
    for now, next in itertools.pairwise(levels):
        clean = law.denoise(z, now)
        pull = law.jacobian(now).T @ gradient(law, clean)
        scale = np.sqrt((1 + now**2) * (1 + next**2))
        z = clean + next / now * (z - clean) - scale * pull
    np.testing.assert_allclose(found.x, law.decode(z), **EXACT64)
    misfit = np.sum(law.residual(clean) ** 2) / (2 * NOISE_STD**2)
    np.testing.assert_allclose(found.stats.misfit[-1], misfit, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_latent_dps_is_the_affine_recursion():
    """Exact weights, the likelihood and the noise of ancestral steps."""
    law, levels = latent_bed(), np.asarray(grid().sigma)
    solver = LDPS(grid=grid(), reverse=Ancestral(), cost=likelihood, unit=exact_unit)
    found = solve(KEY, law.problem(), law.prior(), solver).x
    both = law.matrix @ law.decoder
    z = np.sqrt(1 + levels[0] ** 2) * draws(KEY, (LATENT,), 1)[0]
    keys = jax.random.split(jax.random.split(KEY)[1], grid().num_steps)
    for key, (now, next) in zip(keys, itertools.pairwise(levels), strict=True):
        ratio, clean = (next / now) ** 2, law.denoise(z, now)
        pull = law.jacobian(now).T @ both.T @ law.residual(clean) / NOISE_STD**2
        noise = np.asarray(jax.random.normal(jax.random.split(key)[0], (LATENT,)))
        z = (1 - ratio) * (clean - now**2 * pull) + ratio * z
        z = z + next * np.sqrt(1 - ratio) * noise
    np.testing.assert_allclose(found, law.decode(z), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_ldps_is_dps_behind_the_decoder():
    law = latent_bed()
    settings = {"grid": grid(), "guidance_scale": 0.3}
    latent = LDPS(**settings)
    inner = DPS(**settings, reverse=latent.reverse)
    pair = [
        solve(KEY, law.problem(), law.prior(), solver)
        for solver in (latent, InLatentSpace(inner=inner))
    ]
    np.testing.assert_allclose(pair[0].x, pair[1].x, **EXACT64)
    assert pair[0].stats.nvjp == pair[1].stats.nvjp == grid().num_steps


def test_a_solver_for_linear_operators_does_not_fit_behind_a_decoder():
    law = latent_bed()
    solver = InLatentSpace(inner=PiGDM(grid=grid()))
    with pytest.raises(TypeError, match="PiGDM needs a LinearOperator as operator"):
        solve(KEY, law.problem(), law.prior(), solver)


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (TDS(grid=grid(), num_particles=10**10), "10000000000 particles of shape"),
        (TDS(grid=grid(), num_particles=4, reverse=Euler()), "stochastic reverse step"),
        (PnPDM.default(num_iterations=2), "needs a SpectralOperator as operator"),
    ],
    ids=["memory", "deterministic", "exact likelihood"],
)
def test_what_the_inner_solver_refuses_is_refused_behind_a_decoder(inner, message):
    law = latent_bed()
    with pytest.raises((TypeError, ValueError), match=message):
        solve(KEY, law.problem(), law.prior(), InLatentSpace(inner=inner))


@pytest.mark.usefixtures("x64")
def test_psld_stays_at_the_truth():
    """Signals on a subspace, an exact autoencoder, a mask: both terms vanish there."""
    rng = np.random.default_rng(3)
    basis, _ = np.linalg.qr(rng.normal(size=(SIZE, LATENT)))
    truth = rng.normal(size=LATENT)
    latent = GaussianPrior.from_moments(truth, np.diag([0.2, 0.5, 1.0]))
    prior = LatentDiffusionPrior.create(LinearAutoencoder.from_decoder(basis), latent)
    mask = Mask.from_array(jnp.asarray([1.0, 0.0, 1.0, 1.0, 0.0]), (SIZE,))
    image = prior.decode(jnp.asarray(truth))
    problem = Problem(y=mask(image), operator=mask, noise=GaussianNoise(std=NOISE_STD))
    solver = PSLD(grid=grid(), **SCALES)

    @jax.jit
    def penalty(z):
        return solver.penalty(problem, prior, (z, prior.decode(z)), KEY)

    assert penalty(jnp.asarray(truth)) < 1e-14
    # Elsewhere the second term is what decoding, masking and encoding leave of the gap.
    solver, gap = PSLD(grid=grid(), guidance_scale=0.0), np.asarray([0.3, -0.1, 0.2])
    masked = basis.T @ np.diag(mask.mask) @ basis
    expected = 0.1 * np.linalg.norm(masked @ gap)
    at = jnp.asarray(truth + gap)
    found = solver.penalty(problem, prior, (at, prior.decode(at)), KEY)
    np.testing.assert_allclose(found, expected, **EXACT64)
    assert expected > 1e-3


@pytest.mark.usefixtures("x64")
def test_released_psld():
    law, solver = latent_bed(), PSLD.released_code("super_resolution_x4")
    assert (solver.guidance_scale, solver.gluing_scale) == (0.9, 0.1)
    assert solver.correction is cubic_correction
    assert PSLD.released_code("motion_deblurring").correction is residual_correction
    stable = PSLD.released_stable_diffusion(num_steps=10)
    assert (stable.guidance_scale, stable.gluing_scale) == (0.1, 0.01)
    assert stable.prediction_noise == 0.05
    noisy = dataclasses.replace(solver, correction=adjoint_correction, gluing_scale=0.0)
    z = np.linspace(-1, 1, LATENT)
    pair = (jnp.asarray(z), jnp.asarray(law.decode(z)))
    found = noisy.penalty(law.problem(), law.prior(), pair, KEY)
    noise = jax.random.normal(jax.random.split(KEY, 1)[0], law.y.shape)
    expected = 0.9 * np.linalg.norm(law.residual(z) + 0.05 * noise)
    np.testing.assert_allclose(found, expected, **EXACT64)


def test_other_corrections():
    law, x = latent_bed(), np.linspace(-1, 1, SIZE)
    image = jnp.asarray(x, jnp.float32)
    found = image + pseudo_inverse_correction(law.problem(), image)
    np.testing.assert_allclose(law.matrix @ np.asarray(found), law.y, rtol=1e-4)
    identity = FunctionOperator.create(jnp.tanh, (SIZE,))
    problem = dataclasses.replace(law.problem(), operator=identity, y=jnp.zeros(SIZE))
    found = residual_correction(problem, jnp.asarray(x))
    np.testing.assert_allclose(found, -np.tanh(x), rtol=1e-6)
