"""DPS against explicit matrices, a closed form, and unconditional sampling."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import dawsn

from diffctl.diffusion import Ancestral, Euler, NoiseGrid, clip, ddpm
from diffctl.operators import FunctionOperator, GaussianNoise, Problem
from diffctl.priors import GaussianPrior
from diffctl.solvers import DPS, likelihood, solve
from diffctl.solvers.dps import exact_unit
from tests.affine import AffineMap, propagate
from tests.solvers.bed import NOISE_STD, SIZE, bed, draws, grid, mixture
from tests.tolerances import EXACT64, REORDER32, stat

KEY = jax.random.key(3)


def _unchanged(x):
    return 1.0 * x


def _likelihood_step(law, now, next):
    """One ancestral step with the exact weight of the plug-in likelihood score."""
    jacobian, pull = law.jacobian(now), law.matrix.T / NOISE_STD**2
    ratio = (next / now) ** 2
    step_size = now**2 * (1 - ratio)
    on_x0 = (1 - ratio) * np.eye(SIZE) - step_size * jacobian.T @ pull @ law.matrix
    offset = on_x0 @ (np.eye(SIZE) - jacobian) @ law.mean
    return AffineMap(
        matrix=on_x0 @ jacobian + ratio * np.eye(SIZE),
        offset=offset + step_size * jacobian.T @ pull @ law.y,
        noise=next * np.sqrt(1 - ratio) * np.eye(SIZE),
    )


def _likelihood_solver():
    return DPS(
        grid=grid(), reverse=Ancestral(), guidance_scale=1.0, cost=likelihood,
        unit=exact_unit,
    )  # fmt: skip


@pytest.mark.usefixtures("x64")
def test_squared_cost_is_the_affine_recursion():
    law, levels = bed(), np.asarray(grid().sigma)
    found = solve(KEY, law.problem(), law.prior(), _likelihood_solver()).x
    start, noise = draws(KEY, (SIZE,), levels.size - 1)
    x = np.sqrt(1 + levels[0] ** 2) * start
    for now, next, z in zip(levels[:-1], levels[1:], noise, strict=True):
        step = _likelihood_step(law, now, next)
        x = step.matrix @ x + step.offset + step.noise @ z
    chex.assert_trees_all_close(np.asarray(found), x, **EXACT64)


def test_many_draws_have_the_propagated_moments():
    law, levels = bed(), np.asarray(grid().sigma, np.float64)
    maps = [_likelihood_step(law, *pair) for pair in itertools.pairwise(levels)]
    stacked = jax.tree.map(lambda *parts: jnp.asarray(np.stack(parts)), *maps)
    start = (1 + levels[0] ** 2) * np.eye(SIZE)
    means, covariances = propagate(stacked, jnp.zeros(SIZE), jnp.asarray(start, float))

    count = 20_000
    keys = jax.random.split(KEY, count)
    many = jax.vmap(lambda key: solve(key, problem, prior, solver).x)
    problem, prior, solver = law.problem(), law.prior(), _likelihood_solver()
    draws_ = many(keys)
    std = np.sqrt(np.diagonal(covariances[-1]))
    # n = 20000, k = 4; the standard error of a variance is sqrt(2 / n) of it.
    assert np.all(np.abs(draws_.mean(0) - means[-1]) < stat(count) * std)
    chex.assert_trees_all_close(
        jnp.var(draws_, axis=0), jnp.asarray(std**2), rtol=np.sqrt(2) * stat(count)
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("noise_std", "published"),
    [
        (0.5, (1.279976, 0.018316)),
        (0.7, (1.085427, 0.129923)),
        (1, (0.724778, 0.367879)),
    ],
)
def test_flow_with_plug_in_likelihood_is_the_closed_form(noise_std, published):
    """Prior N(0, 1), y = x0 + s n: mean y sqrt(2 k) Dawson(sqrt(k / 2)), k = 1 / s^2.

    The variance collapses to exp(-k): DPS is not a posterior sampler.
    """
    y, sigma_max = 1.3, 1e8
    problem = Problem(
        y=jnp.asarray([y]),
        operator=FunctionOperator.create(_unchanged, (1,)),
        noise=GaussianNoise(std=float(noise_std)),
    )
    prior = GaussianPrior.from_moments(np.zeros(1), np.eye(1))
    keys = jax.random.split(KEY, 2)
    starts = np.sqrt(1 + sigma_max**2) * np.stack(
        [draws(key, (1,), 1)[0][0] for key in keys]
    )

    def moments(num_steps):
        """Mean and variance of the affine map from start to end."""
        levels = NoiseGrid.from_sigmas(np.geomspace(sigma_max, 1e-5, num_steps))
        solver = DPS(
            grid=levels, reverse=Euler(), guidance_scale=1.0, cost=likelihood,
            unit=exact_unit,
        )  # fmt: skip
        ends = jax.vmap(lambda key: solve(key, problem, prior, solver).x[0])(keys)
        slope = (ends[1] - ends[0]) / (starts[1] - starts[0])
        mean = ends[0] - slope * starts[0]
        return np.asarray([mean / y, slope**2 * (1 + sigma_max**2)])

    # Errors of the Euler steps of first and of second order, eliminated in turn.
    coarse, fine, finer = (moments(n) for n in (2000, 4000, 8000))
    first, second = 2 * fine - coarse, 2 * finer - fine
    found = (4 * second - first) / 3
    kappa = noise_std**-2
    mean = np.sqrt(2 * kappa) * dawsn(np.sqrt(kappa / 2))
    # Measured: 4e-8. One of the three alone is off by 7e-3.
    np.testing.assert_allclose(found, [mean, np.exp(-kappa)], rtol=2e-7)
    np.testing.assert_allclose(found, published, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_gradient_of_the_norm_is_that_of_the_explicit_jacobian():
    law = bed()
    solver = DPS(grid=grid(), reverse=Ancestral(), guidance_scale=0.3)
    free = dataclasses.replace(solver, guidance_scale=0.0)
    x, levels = np.linspace(-1, 2, SIZE), grid().pairs()
    at = (*jax.tree.map(lambda leaf: leaf[2], levels), KEY)
    guided, trace = solver.step(jnp.asarray(x), at, law.problem(), law.prior())
    unguided, _ = free.step(jnp.asarray(x), at, law.problem(), law.prior())

    now, next = (float(level.sigma) for level in at[:2])
    residual = law.y - law.matrix @ law.denoise(x, now)
    pulled = law.jacobian(now).T @ law.matrix.T @ residual
    unit = np.sqrt((1 + now**2) * (1 + next**2))
    expected = 0.3 * unit * pulled / np.linalg.norm(residual)
    chex.assert_trees_all_close(guided - unguided, jnp.asarray(expected), **EXACT64)
    np.testing.assert_allclose(
        trace.misfit, residual @ residual / (2 * NOISE_STD**2), **EXACT64
    )


@pytest.mark.usefixtures("x64")
def test_pixels_at_the_bound_are_not_guided():
    """The bound of the estimate is inside the gradient: its derivative is 0 there."""
    law = bed()
    solver = DPS(grid=grid(), reverse=Ancestral(bound=clip), guidance_scale=0.3)
    free = dataclasses.replace(solver, guidance_scale=0.0)
    x = np.linspace(-4, 5, SIZE)
    at = (*jax.tree.map(lambda leaf: leaf[2], grid().pairs()), KEY)
    guided, _ = solver.step(jnp.asarray(x), at, law.problem(), law.prior())
    unguided, _ = free.step(jnp.asarray(x), at, law.problem(), law.prior())

    now, next = (float(level.sigma) for level in at[:2])
    estimate = law.denoise(x, now)
    inside = np.abs(estimate) < 1
    assert 0 < np.sum(inside) < SIZE
    residual = law.y - law.matrix @ np.clip(estimate, -1, 1)
    pulled = law.jacobian(now).T @ (inside * (law.matrix.T @ residual))
    unit = np.sqrt((1 + now**2) * (1 + next**2))
    expected = 0.3 * unit * pulled / np.linalg.norm(residual)
    np.testing.assert_allclose(guided - unguided, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_without_guidance_it_samples_the_prior():
    """The same start, the same noise and the same reverse steps as by hand."""
    law, prior = bed(), mixture()
    solver = DPS(grid=grid(), guidance_scale=0.0)

    @jax.jit
    def by_hand(start, noise):
        def body(x, at):
            now, next, z = at
            return solver.reverse(prior, x, now, next, z), None

        x = jnp.sqrt(1 + grid().sigma[0] ** 2) * start
        return jax.lax.scan(body, x, (*grid().pairs(), noise))[0]

    start, noise = draws(KEY, (SIZE,), grid().num_steps)
    found = solve(KEY, law.problem(), prior, solver).x
    expected = by_hand(jnp.asarray(start), jnp.asarray(noise))
    chex.assert_trees_all_close(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_without_guidance_a_step_is_the_reverse_step_bit_for_bit():
    """Operation by operation: two compiled programs may round differently."""
    law, prior = bed(), mixture()
    solver = DPS(grid=grid(), guidance_scale=0.0)
    x = jnp.linspace(-1, 2, SIZE)
    for index in (2, -1):
        now, next = jax.tree.map(lambda leaf, i=index: leaf[i], grid().pairs())
        found, _ = solver.step(x, (now, next, KEY), law.problem(), prior)
        noise = jax.random.normal(KEY, x.shape, x.dtype)
        expected = solver.reverse(prior, x, now, next, noise)
        chex.assert_trees_all_equal(found, expected)


def _nothing(x):
    return 0 * x[:2]


def test_an_operator_that_sees_nothing_does_not_guide():
    operator = FunctionOperator.create(_nothing, (SIZE,))
    problem = Problem(
        y=jnp.zeros(2), operator=operator, noise=GaussianNoise(std=NOISE_STD)
    )
    solver = DPS(grid=grid(), guidance_scale=0.5)
    free = dataclasses.replace(solver, guidance_scale=0.0)
    guided, unguided = (solve(KEY, problem, mixture(), s).x for s in (solver, free))
    chex.assert_trees_all_equal(guided, unguided)

    def total(y):
        moved = dataclasses.replace(problem, y=y)
        return jnp.sum(solve(KEY, moved, mixture(), solver).x)

    chex.assert_tree_all_finite(jax.grad(total)(problem.y))


def test_the_default_unit_is_one_in_variance_preserving_coordinates():
    """Rescaled by hand, a step of guidance_scale on x / sqrt(1 + sigma^2)."""
    law, prior = bed(), mixture()
    problem, levels = law.problem(), grid()
    solver = DPS(grid=levels, guidance_scale=0.2)
    start, noise = draws(KEY, (SIZE,), levels.num_steps)

    def cost(z, now):
        estimate = solver.reverse.estimate(prior, jnp.sqrt(1 + now.sigma**2) * z, now)
        return jnp.linalg.norm(problem.operator(estimate.x0_hat) - problem.y)

    @jax.jit
    def in_paper_coordinates(z):
        def body(z, at):
            now, next, noise_i = at
            x = jnp.sqrt(1 + now.sigma**2) * z
            x_next = solver.reverse(prior, x, now, next, noise_i)
            z_next = x_next / jnp.sqrt(1 + next.sigma**2)
            return z_next - 0.2 * jax.grad(cost)(z, now), None

        return jax.lax.scan(body, z, (*levels.pairs(), jnp.asarray(noise)))[0]

    found = solve(KEY, problem, prior, solver).x
    expected = in_paper_coordinates(jnp.asarray(start))
    chex.assert_trees_all_close(found, expected, **REORDER32)


def test_presets_are_the_published_numbers():
    super_resolution = DPS.released_code("super_resolution_x4")
    assert super_resolution.guidance_scale == 0.3
    assert super_resolution.grid.num_steps == 1000
    chex.assert_trees_all_equal(super_resolution.grid, ddpm(1000))
    assert DPS.released_code("box_inpainting").guidance_scale == 0.5
    # 1 in the paper, which divides the gradient of the squared norm by the norm.
    assert DPS.paper("motion_deblurring", num_steps=20).guidance_scale == 2.0
    with pytest.raises(ValueError, match="did you mean 'box_inpainting'"):
        DPS.paper("box_inpaint")
