"""Score-SDE, ILVR and MCG: the measured part is replaced by the noisy measurement."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import Ancestral, Euler
from diffctl.operators import BlockAverage, GaussianNoise, Mask, Problem
from diffctl.priors import GaussianPrior
from diffctl.solvers import (
    DPS,
    ILVR,
    MCG,
    ScoreSDE,
    cubic_upsampling,
    solve,
)
from tests.affine import affine_map, propagate
from tests.solvers.bed import SIZE, bed, grid, mixture
from tests.tolerances import EXACT64

KEY = jax.random.key(7)
OBSERVED = np.asarray([1.0, 0.0, 1.0, 0.0])
Y = np.asarray([0.4, 0.0, -0.7, 0.0])


def _inpainting():
    return Problem(
        y=jnp.asarray(Y),
        operator=Mask.from_array(jnp.asarray(OBSERVED), (4,)),
        noise=GaussianNoise(std=0.1),
    )


def _normals(key, shape=(SIZE,)):
    return [
        np.asarray(jax.random.normal(k, shape, jnp.result_type(float)))
        for k in jax.random.split(key)
    ]


def _at(index, key=KEY):
    pairs = jax.tree.map(lambda leaf: leaf[index], grid().pairs())
    return (*pairs, key)


@pytest.mark.usefixtures("x64")
def test_measured_pixels_have_the_marginals_of_the_noisy_measurement():
    """N(y, sigma'^2) at every level, whatever the state, and y at the end."""
    solver = ScoreSDE(grid=grid())
    for index, sigma in enumerate(np.asarray(grid().sigma)[1:]):
        _, next, _ = _at(index)

        def step(x, z, next=next):
            change = solver.change(_inpainting(), x, next.sigma, z)
            return x + change

        law = affine_map(step, (SIZE,))
        seen = OBSERVED > 0
        np.testing.assert_allclose(law.matrix, np.diag(1 - OBSERVED), **EXACT64)
        np.testing.assert_allclose(law.offset[seen], Y[seen], **EXACT64)
        np.testing.assert_allclose(law.noise, sigma * np.diag(OBSERVED), **EXACT64)
    found = solve(KEY, _inpainting(), mixture(), solver).x
    np.testing.assert_allclose(found[OBSERVED > 0], Y[OBSERVED > 0], **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("relaxation", [1.0, 0.5])
def test_score_sde_is_the_affine_recursion(relaxation):
    """x' + relaxation A^+ (y + sigma' A z - A x') with explicit matrices."""
    law, levels = bed(), np.asarray(grid().sigma)
    solver = ScoreSDE(grid=grid(), relaxation=relaxation)
    pinv = np.linalg.pinv(law.matrix)
    start_key, steps_key = jax.random.split(KEY)
    x = np.asarray(jax.random.normal(start_key, (SIZE,))) * np.sqrt(1 + levels[0] ** 2)
    keys = jax.random.split(steps_key, levels.size - 1)
    for now, next, key in zip(levels[:-1], levels[1:], keys, strict=True):
        z, data_z = _normals(key)
        ratio = (next / now) ** 2
        x = (1 - ratio) * law.denoise(x, now) + ratio * x
        x = x + next * np.sqrt(1 - ratio) * z
        noisy = law.y + next * law.matrix @ data_z
        x = x + relaxation * pinv @ (noisy - law.matrix @ x)
    found = solve(KEY, law.problem(), law.prior(), solver).x
    np.testing.assert_allclose(found, x, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_it_is_no_posterior_sampler():
    """The moments that the recursion predicts are not those of the posterior."""
    law = bed()
    solver = ScoreSDE(grid=grid(40, 60.0), reverse=Euler())
    pairs = solver.grid.pairs()

    def one(now, next):
        def step(x, z):
            estimate = solver.reverse.estimate(law.prior(), x, now)
            moved = solver.reverse.advance(x, estimate, now, next)
            return moved + solver.change(law.problem(), moved, next.sigma, z)

        return affine_map(step, (SIZE,))

    maps = jax.vmap(one)(*pairs)
    start = (1 + 60.0**2) * jnp.eye(SIZE)
    means, covariances = propagate(maps, jnp.zeros(SIZE), start)
    posterior = law.prior().posterior(law.y, law.matrix, 1e-3)
    # Exactly consistent, so the measured directions agree; the free one does not.
    np.testing.assert_allclose(law.matrix @ means[-1], law.y, **EXACT64)
    free = np.linalg.svd(law.matrix)[2][-1]
    exact = free @ np.asarray(posterior.covariance()) @ free
    assert abs(free @ np.asarray(covariances[-1]) @ free / exact - 1) > 0.2
    count = 4000
    keys = jax.random.split(KEY, count)
    problem, prior = law.problem(), law.prior()
    ends = jax.vmap(lambda key: solve(key, problem, prior, solver).x)(keys)
    std = np.sqrt(free @ np.asarray(covariances[-1]) @ free)
    # n = 4000, k = 4.
    assert abs(np.mean(ends @ free) - free @ means[-1]) < 4 * std / np.sqrt(count)


@pytest.mark.usefixtures("x64")
def test_ilvr_with_the_pseudo_inverse_is_score_sde():
    law = bed()
    pair = [
        solve(KEY, law.problem(), mixture(), kind(grid=grid())).x
        for kind in (ILVR, ScoreSDE)
    ]
    np.testing.assert_allclose(*pair, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_ilvr_replaces_the_low_pass_part():
    """x' + L(y_up + sigma' z) - L(x'), with L = cubic up-sampling of block means."""
    shape = (4, 4, 1)
    operator = BlockAverage.create(shape, 2)
    y = jnp.asarray(np.linspace(-1, 1, 4).reshape(2, 2, 1))
    problem = Problem(y=y, operator=operator, noise=GaussianNoise(std=0.1))
    x, z = (jax.random.normal(k, shape) for k in jax.random.split(KEY))
    solver = ILVR(grid=grid(), up=cubic_upsampling)
    change = solver.change(problem, x, jnp.asarray(0.5), z)

    def low_pass(image):
        small = image.reshape(2, 2, 2, 2, 1).mean((1, 3))
        return jax.image.resize(small, shape, "cubic")

    y_up = jax.image.resize(y, shape, "cubic")
    expected = low_pass(y_up + 0.5 * z) - low_pass(x)
    np.testing.assert_allclose(change, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_ilvr_stops_at_its_level():
    """Below it the states are those of the reverse process alone."""
    law, levels = bed(), np.asarray(grid().sigma)
    late = ILVR(grid=grid(), stop_sigma=levels[2])
    never = dataclasses.replace(late, stop_sigma=1e9)
    always = ILVR(grid=grid())
    x = jnp.linspace(-1, 2, SIZE)
    for index in range(levels.size - 1):
        step, quiet, loud = (
            s.step(x, _at(index), law.problem(), law.prior())[0]
            for s in (late, never, always)
        )
        expected = loud if index < 2 else quiet
        np.testing.assert_array_equal(step, expected)
        assert not np.allclose(quiet, loud)


@pytest.mark.usefixtures("x64")
def test_mcg_is_a_dps_step_and_a_projection():
    law, x = bed(), jnp.linspace(-1, 2, SIZE)
    guided = DPS(grid=grid(), reverse=Ancestral(), guidance_scale=0.3)
    now, next, _ = _at(1)
    keys = jax.random.split(KEY)
    found, _ = MCG(guided=guided).step(x, _at(1), law.problem(), law.prior())
    moved, _ = guided.step(x, (now, next, keys[0]), law.problem(), law.prior())
    _, z = _normals(KEY)
    pinv = np.linalg.pinv(law.matrix)
    noisy = law.y + float(next.sigma) * law.matrix @ z
    expected = moved + pinv @ (noisy - law.matrix @ moved)
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_mcg_explains_the_measurement_exactly_and_without_guidance_is_score_sde():
    law = bed()
    guided = DPS(grid=grid(), reverse=Ancestral(), guidance_scale=0.3)
    found = solve(KEY, law.problem(), mixture(), MCG(guided=guided)).x
    np.testing.assert_allclose(law.matrix @ found, law.y, **EXACT64)
    free = MCG(guided=dataclasses.replace(guided, guidance_scale=0.0))
    pair = [
        solve(KEY, law.problem(), mixture(), solver).x
        for solver in (free, ScoreSDE(grid=grid()))
    ]
    np.testing.assert_allclose(*pair, **EXACT64)
    assert MCG.dps_paper("box_inpainting", num_steps=20).guided.guidance_scale == 2.0


def _released_step(task, problem, shape):
    """A step of the preset, the DPS step in it, the noise of y and the levels."""
    solver = MCG.released_code(task, num_steps=20)
    now, next = jax.tree.map(lambda leaf: leaf[10], solver.guided.grid.pairs())
    keys, x = jax.random.split(KEY), jnp.linspace(-1, 2, 16).reshape(shape)
    prior = GaussianPrior.from_moments(x / 2, 0.2 * np.eye(16))

    @jax.jit
    def both(x):
        found, _ = solver.step(x, (now, next, KEY), problem, prior)
        return found, solver.guided.step(x, (now, next, keys[0]), problem, prior)[0]

    found, moved = both(x)
    z = jax.random.normal(keys[1], problem.y.shape)
    return found, moved, problem.y + now.sigma * z, (now, next)


@pytest.mark.usefixtures("x64")
def test_released_mcg_turns_a_masked_image_into_its_negative_and_noise():
    shape = (4, 4, 1)
    mask = Mask.half(shape)
    y = mask(jnp.linspace(1, -1, 16).reshape(shape))
    problem = Problem(y=y, operator=mask, noise=GaussianNoise(std=0.1))
    found, moved, noisy, (now, next) = _released_step("box_inpainting", problem, shape)
    unit = np.sqrt((1 + next.sigma**2) / (1 + now.sigma**2))
    expected = np.where(mask.mask > 0, -moved, unit * noisy)
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_released_mcg_repeats_pixels_for_super_resolution():
    """In its coordinates x' + up(y_t - A x'), y_t noisy at the level that is left."""
    shape = (4, 4, 1)
    operator = BlockAverage.create(shape, 2)
    y = jnp.linspace(-1, 1, 4).reshape(2, 2, 1)
    problem = Problem(y=y, operator=operator, noise=GaussianNoise(std=0.1))
    found, moved, noisy, (now, next) = _released_step(
        "super_resolution_x4", problem, shape
    )
    y_vp = noisy / np.sqrt(1 + now.sigma**2)
    x_vp = moved / np.sqrt(1 + next.sigma**2)
    gap = (y_vp - operator(x_vp)).repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(
        found / np.sqrt(1 + next.sigma**2), x_vp + gap, **EXACT64
    )


def test_released_mcg_has_the_step_sizes_of_dps_and_linear_tasks_only():
    solver = MCG.released_code("gaussian_deblurring", num_steps=20)
    assert (solver.guided.guidance_scale, solver.guided.grid.num_steps) == (0.3, 20)
    for preset in (MCG.released_code, MCG.dps_paper):
        with pytest.raises(ValueError, match="no published settings"):
            preset("phase_retrieval")
