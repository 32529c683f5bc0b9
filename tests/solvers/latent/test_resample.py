"""ReSample: its law against products of Gaussians, its fits against least squares."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics import Descent
from diffctl.solvers import LDPS, ReSample, solve
from diffctl.solvers.latent.base import latent_problem, scaled_linear_grid
from diffctl.solvers.latent.fit import Fit, released_threshold
from diffctl.solvers.latent.resample import released_unit
from diffctl.solvers.latent.resample_law import (
    paper_variance,
    released_variance,
    resample,
)
from diffctl.solvers.latent.slipped_euler import SlippedEuler
from diffctl.solvers.latent.stages import by_index, later_thirds
from tests.solvers.bed import draws
from tests.solvers.latent.bed import LATENT, NOISE_STD, grid, latent_bed, unit
from tests.tolerances import EXACT64

KEY = jax.random.key(23)


def _never(problem):
    return 0.0


def test_stages_of_the_released_settings():
    stages = np.asarray(later_thirds(scaled_linear_grid(500), 10))
    left = 499 - np.flatnonzero(stages)
    assert list(left) == list(range(330, 0, -10))
    assert list(left[stages[499 - left] == 1]) == list(range(330, 160, -10))


def test_stages_of_the_port_in_flash_diffusion():
    levels = scaled_linear_grid(500)
    stages, index = np.asarray(by_index(levels, 10)), np.asarray(levels.time[:-1])
    consistent = index[stages > 0]
    assert list(499 - np.flatnonzero(stages)) == list(range(370, 0, -10))
    assert (consistent[0] <= 750) and (consistent[0] + 20 > 750)
    np.testing.assert_array_equal(stages[stages > 0] == 1, consistent > 300)
    assert set(stages) == {0, 1, 2}


@pytest.mark.usefixtures("x64")
def test_the_law_is_a_product_of_gaussians():
    rng = np.random.default_rng(2)
    found, kept, noise = rng.normal(size=(3, LATENT))
    precisions = np.array([1 / 0.3, 1 / 1.7])
    mean = (precisions[0] * found + precisions[1] * kept) / precisions.sum()
    drawn = resample(found, kept, (0.3, 1.7), noise)
    expected = mean + noise / np.sqrt(precisions.sum())
    np.testing.assert_allclose(drawn, expected, **EXACT64)
    # No variance keeps the state, an infinite one noises the fit.
    np.testing.assert_allclose(
        resample(found, kept, (0.3, 0.0), noise), kept, **EXACT64
    )
    forward = found + np.sqrt(0.3) * noise
    np.testing.assert_allclose(
        resample(found, kept, (0.3, jnp.inf), noise), forward, **EXACT64
    )


@pytest.mark.usefixtures("x64")
def test_variances_and_mean_in_the_coordinates_of_the_paper():
    now, next = jax.tree.map(lambda leaf: leaf[2], grid().pairs())
    a, a_next = (1 / (1 + float(level.sigma) ** 2) for level in (now, next))
    paper = (1 - a_next) / a * (1 - a / a_next)
    np.testing.assert_allclose(paper_variance(now, next), paper, **EXACT64)
    released = paper * a / (1 - a)
    np.testing.assert_allclose(released_variance(now, next), released, **EXACT64)
    s2 = 40 * paper
    expected = (s2 * np.sqrt(a_next) * 0.7 + (1 - a_next) * 0.2) / (s2 + 1 - a_next)
    variances = (float(next.sigma) ** 2, s2 / a_next)
    moved = resample(0.7, 0.2 / np.sqrt(a_next), variances, 0.0)
    np.testing.assert_allclose(np.sqrt(a_next) * moved, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_slip_of_the_released_code():
    """Its estimate is seen by gradients and fits; the state moves as it should."""
    law, now, next = latent_bed(), *jax.tree.map(lambda a: a[1], grid().pairs())
    z, step = np.linspace(-2, 3, LATENT), SlippedEuler()
    sigma = float(now.sigma)
    a = 1 / (1 + sigma**2)
    eps = (z - law.denoise(z, sigma)) / sigma
    estimate = step.estimate(law.gaussian(), jnp.asarray(z), now)
    slipped = (np.sqrt(a) * z - (1 - a) * eps) / np.sqrt(a)
    np.testing.assert_allclose(estimate.x0_hat, slipped, **EXACT64)
    moved = step.advance(jnp.asarray(z), estimate, now, next)
    np.testing.assert_allclose(moved, z + (next.sigma - sigma) * eps, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_a_latent_fit_behind_a_linear_decoder_is_least_squares():
    law, start = latent_bed(), np.linspace(-1, 1, LATENT)
    both = law.matrix @ law.decoder
    fit = Fit(
        descent=Descent.gradient(1.0, momentum=0.7), num_steps=400, threshold=_never
    )
    inside = latent_problem(law.problem(), law.prior())
    found = jax.jit(fit)(inside, jnp.asarray(start))
    expected = start - np.linalg.pinv(both) @ law.residual(start)
    # What descent does not see stays.
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_an_anchored_fit_is_a_ridge_solution():
    law, start = latent_bed(), np.linspace(-1, 1, LATENT)
    both = law.matrix @ law.decoder
    fit = Fit(
        descent=Descent.gradient(0.5, momentum=0.5),
        num_steps=200,
        threshold=_never,
        anchor=0.3,
    )
    inside = latent_problem(law.problem(), law.prior())
    found = jax.jit(fit)(inside, jnp.asarray(start))
    normal = both.T @ both + 0.3 * np.eye(LATENT)
    expected = start - np.linalg.solve(normal, both.T @ law.residual(start))
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_fits_stop_at_the_noise_level():
    law = latent_bed()
    inside = latent_problem(law.problem(), law.prior())
    fit = Fit(descent=Descent.gradient(0.5), num_steps=200)
    found = np.asarray(jax.jit(fit)(inside, jnp.zeros(LATENT)))
    z, steps = np.zeros(LATENT), 0
    while np.mean(law.residual(z) ** 2) > NOISE_STD**2:
        z = z - 0.5 * (law.matrix @ law.decoder).T @ law.residual(z)
        steps += 1
    assert 1 < steps < 200
    np.testing.assert_allclose(found, z, **EXACT64)


def _descended(start, gradient, step_size, num_steps=3):
    for _ in range(num_steps):
        start = start - step_size * gradient(start)
    return start


@pytest.mark.usefixtures("x64")
def test_a_whole_solve_written_out():
    """Six levels: none, three fits in pixels, one in latents, none; a last fit."""
    law, levels = latent_bed(), np.asarray(grid(6).sigma)
    fit = Fit(descent=Descent.gradient(0.1), num_steps=3, threshold=_never)
    guided = LDPS(grid=grid(6), guidance_scale=0.5, unit=released_unit)
    solver = ReSample(
        guided=guided, pixels=fit, latents=fit, gamma=2.0, every=1, lookahead=2
    )
    found = solve(KEY, law.problem(), law.prior(), solver)

    both = law.matrix @ law.decoder
    _, steps_key = jax.random.split(KEY)
    noises = [
        np.asarray(jax.random.normal(jax.random.split(key)[1], (LATENT,)))
        for key in jax.random.split(steps_key, 6)
    ]
    z = np.sqrt(1 + levels[0] ** 2) * draws(KEY, (LATENT,), 1)[0]

    def latent_fit(z):
        return _descended(z, lambda z: both.T @ law.residual(z), 0.1)

    def pixel_fit(z):
        def gradient(x):
            return law.matrix.T @ (law.matrix @ x - law.y)

        return law.encode(_descended(law.decode(z), gradient, 0.1))

    def guided_step(z, now, next):
        clean = law.denoise(z, now)
        pull = law.jacobian(now).T @ both.T @ unit(law.residual(clean))
        weight = 0.5 * np.sqrt((1 + next**2) / (1 + now**2))
        return clean + next / now * (z - clean) - weight * pull

    def look_ahead(z, i):
        clean = law.denoise(z, levels[i])
        last = min(i + 1, 5)
        z = clean + levels[last] / levels[i] * (z - clean)
        return law.denoise(z, levels[last])

    fits = [None, pixel_fit, pixel_fit, pixel_fit, latent_fit, None]
    for i, (now, next) in enumerate(itertools.pairwise(levels)):
        z = guided_step(z, now, next)
        if fits[i] is None:
            continue
        target = fits[i](look_ahead(z, i + 1))
        a, a_next = 1 / (1 + now**2), 1 / (1 + next**2)
        r = 2.0 * (1 - a_next) / a * (1 - a / a_next) / a_next
        total = next**2 + r
        z = (r * target + next**2 * z) / total
        z = z + np.sqrt(next**2 * r / total) * noises[i]
    np.testing.assert_allclose(found.x, law.decode(latent_fit(z)), **EXACT64)
    assert found.stats.nfe_fwd == 6 + 2 * 4


def test_released_settings():
    solver = ReSample.released_code(num_steps=20)
    assert solver.pixels.threshold is solver.latents.threshold is released_threshold
    assert solver.variance is released_variance
    assert isinstance(solver.guided.reverse, SlippedEuler)
    assert isinstance(solver.ahead, SlippedEuler)
    assert solver.pixels.descent.hyperparams["weight_decay"] == 0.01
    fits = [
        (fit.descent.hyperparams["learning_rate"], fit.num_steps)
        for fit in (solver.pixels, solver.latents)
    ]
    assert (solver.gamma, fits) == (40.0, [(1e-2, 2000), (5e-3, 500)])
    assert released_threshold(None) == 1e-6
    assert ReSample.default(grid()).pixels.num_steps == 2000
    port = ReSample.flash_port(scaled_linear_grid(500), 2000.0)
    assert (port.gamma, port.stages, port.latents.anchor) == (1000.0, by_index, 1.0)
    assert (port.guided.guidance_scale, port.guided.reverse.eta) == (0.0, 1.0)
