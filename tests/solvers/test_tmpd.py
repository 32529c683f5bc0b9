"""TMPD against the exact posterior of any Gaussian prior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import DDIM, VP, Ancestral, EulerMaruyama, NoiseGrid
from diffctl.operators import GaussianNoise, Mask, Problem
from diffctl.priors import GaussianPrior
from diffctl.solvers import (
    TMPD,
    DiagonalMoment,
    FullMoment,
    HutchinsonMoment,
    RowSums,
    solve,
)
from tests.affine import affine_map, propagate
from tests.solvers.bed import NOISE_STD, SIZE, bed, grid, mixture
from tests.tolerances import EXACT64, stat

KEY = jax.random.key(10)


def _reverse(solver, prior, key):
    """The solver's reverse process for another prior, from the same draws."""
    start_key, steps_key = jax.random.split(key)
    noise = jax.random.normal(start_key, (SIZE,), jnp.result_type(float))
    x = jnp.sqrt(1 + solver.grid.sigma[0] ** 2) * noise
    for i, step_key in enumerate(jax.random.split(steps_key, solver.grid.num_steps)):
        now, next = jax.tree.map(lambda leaf, i=i: leaf[i], solver.grid.pairs())
        z = jax.random.normal(jax.random.split(step_key)[0], (SIZE,), x.dtype)
        x = solver.reverse(prior, x, now, next, z)
    return x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("reverse", [DDIM(eta=0.0), DDIM(eta=0.6), Ancestral()])
def test_for_any_gaussian_it_is_the_reverse_process_of_the_posterior(
    reverse, chunk_size
):
    law = bed()
    moment = FullMoment(chunk_size=chunk_size)
    solver = TMPD(grid=grid(), reverse=reverse, moment=moment)
    found = solve(KEY, law.problem(), law.prior(), solver).x
    posterior = law.prior().posterior(law.y, law.matrix, NOISE_STD)
    expected = _reverse(solver, posterior, KEY)
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_a_thousand_steps_of_the_sde_reproduce_the_posterior_moments():
    """Euler-Maruyama in VP time, propagated in closed form."""
    law, schedule = bed(), VP()

    def moments(num_steps):
        levels = NoiseGrid.from_times(np.linspace(1, 1e-3, num_steps), schedule)
        solver = TMPD(
            grid=levels, reverse=EulerMaruyama(schedule=schedule), moment=FullMoment()
        )

        def one(now, next):
            def step(x, z):
                # The step is affine in x; its noise is that of the reverse step.
                moved, _ = solver.step(x, (now, next, KEY), problem, prior)
                drawn = jax.random.normal(jax.random.split(KEY)[0], (SIZE,), x.dtype)
                std = solver.reverse.noise_std(None, now, next)
                return moved + std * (z - drawn)

            return affine_map(step, (SIZE,))

        problem, prior = law.problem(), law.prior()
        maps = jax.jit(jax.vmap(one))(*levels.pairs())
        start = (1 + levels.sigma[0] ** 2) * jnp.eye(SIZE)
        means, covariances = propagate(maps, jnp.zeros(SIZE), start)
        return np.vstack([means[-1], covariances[-1]])

    posterior = law.prior().posterior(law.y, law.matrix, NOISE_STD)
    exact = np.vstack([posterior.mean, posterior.covariance()])
    errors = [np.max(np.abs(moments(n) - exact)) for n in (500, 1000)]
    assert errors[1] < 0.02
    np.testing.assert_allclose(errors[1] / errors[0], 0.5, atol=0.1)


def _pixelwise():
    """Mask and independent pixels of different variances: S is diagonal."""
    mask = np.asarray([1.0, 0.0, 1.0, 1.0])
    variances = np.asarray([0.2, 0.5, 1.0, 0.05])
    y = mask * np.asarray([0.3, 0.0, -0.4, 0.2])
    operator = Mask.from_array(jnp.asarray(mask), (SIZE,))
    noise = GaussianNoise(std=NOISE_STD)
    problem = Problem(y=jnp.asarray(y), operator=operator, noise=noise)
    prior = GaussianPrior.from_moments(np.linspace(-0.3, 0.4, SIZE), np.diag(variances))
    return problem, prior, prior.posterior(jnp.asarray(y), jnp.diag(mask), NOISE_STD)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "moment", [RowSums(), DiagonalMoment(), HutchinsonMoment(num_probes=1)]
)
def test_diagonal_models_are_exact_for_independent_pixels(moment):
    problem, prior, posterior = _pixelwise()
    solver = TMPD(grid=grid(), moment=moment)
    found = solve(KEY, problem, prior, solver).x
    np.testing.assert_allclose(found, _reverse(solver, posterior, KEY), **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("moment", "model"),
    [
        (FullMoment(), lambda s: s),
        (DiagonalMoment(), lambda s: np.diag(np.diag(s))),
        (RowSums(), lambda s: np.diag(np.maximum(s.sum(1), 0))),
    ],
)
def test_the_score_of_the_step_is_that_of_explicit_matrices(moment, model):
    law, x = bed(), np.linspace(-1, 2, SIZE)
    solver = TMPD(grid=grid(), moment=moment)
    now, next = jax.tree.map(lambda leaf: leaf[2], grid().pairs())
    guided, trace = solver.step(
        jnp.asarray(x), (now, next, KEY), law.problem(), law.prior()
    )
    z = jax.random.normal(jax.random.split(KEY)[0], (SIZE,), guided.dtype)
    unguided = solver.reverse(law.prior(), x, now, next, z)
    sigma = float(now.sigma)
    jacobian = law.jacobian(sigma)
    moments = sigma**2 * law.matrix @ jacobian @ law.matrix.T
    gram = model(moments) + NOISE_STD**2 * np.eye(law.y.size)
    residual = law.y - law.matrix @ law.denoise(x, sigma)
    score = jacobian.T @ law.matrix.T @ np.linalg.solve(gram, residual)
    gamma = solver.reverse.guidance_coefficient(now, next)
    np.testing.assert_allclose(guided - unguided, gamma * score, **EXACT64)
    expected = 2 if isinstance(moment, RowSums) else law.y.size + 1
    assert trace.calls.vjp == expected


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("chunk_size", [5, None])
def test_the_diagonal_is_found_by_chunks(chunk_size):
    """The same for all chunks, the last one short; no (m, m) array unless asked for."""
    size = 37
    weights = jnp.asarray(np.random.default_rng(4).uniform(size=size))
    residual, variance = jnp.linspace(-1, 2, size), jnp.asarray(0.09)

    def solved(residual):
        def product(w):
            return weights * w + 0.3 * jnp.roll(w, 1)

        moment = DiagonalMoment(chunk_size=chunk_size)
        return moment.solve(KEY, product, residual, variance)

    program = jax.jit(solved).lower(residual).compile()
    np.testing.assert_allclose(
        program(residual), residual / (weights + variance), **EXACT64
    )
    assert ("[37,37]" in program.as_text()) == (chunk_size is None)


@pytest.mark.usefixtures("x64")
def test_random_signs_are_unbiased():
    """n = 4000 estimates from three probes each, k = 4 standard errors."""
    root = np.random.default_rng(3).normal(size=(SIZE, SIZE))
    matrix = jnp.asarray(root @ root.T)
    moment = HutchinsonMoment(num_probes=3)

    def estimate(key):
        return moment.diagonal(key, lambda w: matrix @ w, jnp.ones(SIZE))

    count = 4000
    many = np.asarray(jax.vmap(estimate)(jax.random.split(KEY, count)))
    error = np.abs(many.mean(0) - np.diagonal(matrix))
    assert np.all(many.std(0) > 0.5)
    assert np.all(error < stat(count) * many.std(0))


@pytest.mark.usefixtures("x64")
def test_negative_variances_of_a_network_count_as_none():
    product = -0.5 * np.eye(3)
    residual, variance = jnp.asarray([1.0, -2.0, 0.5]), jnp.asarray(0.09)
    for moment in (FullMoment(), DiagonalMoment(), RowSums(), HutchinsonMoment()):
        found = moment.solve(KEY, lambda w: product @ w, residual, variance)
        np.testing.assert_allclose(found, residual / 0.09, **EXACT64)


def test_calls_are_counted():
    law, steps = bed(), grid().num_steps
    counts = {FullMoment(): 4, RowSums(): 2, HutchinsonMoment(num_probes=5): 6}
    for moment, per_step in counts.items():
        solver = TMPD(grid=grid(), moment=moment)
        stats = solve(KEY, law.problem(), mixture(), solver).stats
        assert (stats.nfe_fwd, stats.nvjp) == (steps, per_step * steps)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("experiment", "num_steps", "sigma_max", "moment"),
    [
        ("gaussian_field", 1000, np.sqrt(np.expm1(12.505)), FullMoment),
        ("gaussian_mixture", 1000, np.sqrt(np.expm1(12.55)), FullMoment),
        ("cifar", 1000, 152.167, RowSums),
        ("faces", 100, 348.0, RowSums),
    ],
)
def test_released_settings(experiment, num_steps, sigma_max, moment):
    solver = TMPD.released_code(experiment)
    assert isinstance(solver.moment, moment)
    np.testing.assert_allclose(
        solver.grid.time[:-1], np.arange(num_steps, 0, -1) / num_steps, rtol=1e-12
    )
    np.testing.assert_allclose(solver.grid.sigma[0], sigma_max, rtol=1e-5)
    if isinstance(solver.reverse, DDIM):
        etas = {"gaussian_mixture": 0.4, "cifar": 1.0}
        assert solver.reverse.eta == etas[experiment]
    else:
        # The schedule of its steps is that of its levels.
        times = solver.grid.time[:-1]
        np.testing.assert_allclose(
            solver.reverse.schedule.sigma(times), solver.grid.sigma[:-1], rtol=1e-9
        )
    assert TMPD.released_code(experiment, num_steps=20).grid.num_steps == 20
