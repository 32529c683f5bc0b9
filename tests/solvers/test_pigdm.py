"""PiGDM against the exact posterior of an isotropic Gaussian prior."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import DDIM, NoiseGrid, Renoise, vp_uniform
from diffctl.operators import (
    FunctionOperator,
    GaussianNoise,
    LinearFunctionOperator,
    Problem,
)
from diffctl.priors import GaussianPrior
from diffctl.solvers import NoiselessPiGDM, NonlinearPiGDM, PiGDM, solve
from diffctl.solvers.pigdm import (
    continuous_weight,
    exact_weight,
    paper_weight,
    red_diff_weight,
    red_diff_weight_without_awd,
)
from tests.solvers.bed import NOISE_STD, SIZE, bed, draws, grid, mixture
from tests.tolerances import EXACT64

KEY = jax.random.key(8)
SIGNAL_STD = 0.6


def _isotropic():
    return GaussianPrior.from_moments(bed().mean, SIGNAL_STD**2 * np.eye(SIZE))


def _start(solver, law, noise):
    sigma, a = float(solver.grid.sigma[0]), law.matrix
    variance = sigma**2 / (1 + (sigma / solver.signal_std) ** 2)
    gram = a @ a.T + NOISE_STD**2 / variance * np.eye(law.y.size)
    return jnp.asarray(a.T @ np.linalg.solve(gram, law.y) + sigma * noise)


def _reverse(solver, prior, x, noise):
    """The solver's reverse process for another prior, unguided."""
    for i, z in enumerate(noise):
        now, next = jax.tree.map(lambda leaf, i=i: leaf[i], solver.grid.pairs())
        x = solver.reverse(prior, x, now, next, jnp.asarray(z))
    return x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("reverse", [DDIM(eta=0.0), DDIM(eta=1.0), Renoise(eta=0.5)])
def test_for_an_isotropic_prior_it_is_the_reverse_process_of_the_posterior(reverse):
    """G is the exact likelihood score, and the weight is exact: the same states."""
    law = bed()
    solver = PiGDM(grid=grid(), reverse=reverse, signal_std=SIGNAL_STD)
    found = solve(KEY, law.problem(), _isotropic(), solver).x
    first, noise = draws(KEY, (SIZE,), solver.grid.num_steps)
    start = _start(solver, law, first)
    posterior = _isotropic().posterior(law.y, law.matrix, NOISE_STD)
    expected = _reverse(solver, posterior, start, noise)
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_many_steps_of_the_flow_lead_to_posterior_samples():
    """Moments of the affine map from start to end; Euler steps are of first order."""
    law = bed()
    problem, prior = law.problem(), _isotropic()
    posterior = prior.posterior(law.y, law.matrix, NOISE_STD)
    keys = jax.random.split(KEY, SIZE + 1)
    starts = np.stack([draws(key, (SIZE,), 1)[0] for key in keys])

    def moments(num_steps):
        levels = NoiseGrid.from_sigmas(np.geomspace(2000.0, 1e-3, num_steps))
        flow = DDIM(eta=0.0)
        solver = PiGDM(grid=levels, reverse=flow, signal_std=SIGNAL_STD)
        ends = jax.vmap(lambda key: solve(key, problem, prior, solver).x)(keys)
        slope = np.linalg.solve(np.diff(starts, axis=0), np.diff(ends, axis=0)).T
        return np.vstack([np.asarray(ends[0]) - slope @ starts[0], slope @ slope.T])

    exact = np.vstack([posterior.mean, posterior.covariance()])
    coarse, fine = moments(400), moments(800)
    assert np.max(np.abs(fine - exact)) < 0.02
    # Their first-order errors, 1e-2, cancel; of second order 1.1e-3 is left (measured).
    np.testing.assert_allclose(2 * fine - coarse, exact, rtol=0, atol=2e-3)


@pytest.mark.usefixtures("x64")
def test_the_score_of_the_step_is_that_of_explicit_matrices():
    """J^T A^T (r^2 A A^T + s^2 I)^{-1} (y - A D) for any Gaussian prior."""
    law, x = bed(), np.linspace(-1, 2, SIZE)
    solver = PiGDM(grid=grid(), reverse=DDIM(eta=0.3), guidance_scale=0.7)
    now, next = jax.tree.map(lambda leaf: leaf[2], grid().pairs())
    arguments = ((now, next, KEY), law.problem(), law.prior())
    guided, trace = solver.step(jnp.asarray(x), *arguments)
    free = dataclasses.replace(solver, guidance_scale=0.0)
    unguided, _ = free.step(jnp.asarray(x), *arguments)
    sigma = float(now.sigma)
    variance = sigma**2 / (1 + sigma**2)
    gram = variance * law.matrix @ law.matrix.T + NOISE_STD**2 * np.eye(law.y.size)
    residual = law.y - law.matrix @ law.denoise(x, sigma)
    score = law.jacobian(sigma).T @ law.matrix.T @ np.linalg.solve(gram, residual)
    gamma = solver.reverse.guidance_coefficient(now, next)
    np.testing.assert_allclose(guided - unguided, 0.7 * gamma * score, **EXACT64)
    np.testing.assert_allclose(
        trace.misfit, residual @ residual / (2 * NOISE_STD**2), **EXACT64
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_weights_in_the_coordinates_of_the_paper(eta):
    """On g = J_vp^T v with x_vp = sqrt(ab) x, as the sources write them."""
    levels = vp_uniform(5)
    reverse = DDIM(eta=eta)
    for i in range(4):
        now, next = jax.tree.map(lambda leaf, i=i: leaf[i], levels.pairs())
        ab_t, ab_s = float(now.scale) ** 2, float(next.scale) ** 2
        variance = 1 - ab_t
        std = eta * np.sqrt((1 - ab_s) / (1 - ab_t)) * np.sqrt(1 - ab_t / ab_s)
        on_eps = np.sqrt(1 - ab_s - std**2)
        gamma = np.sqrt(ab_s / ab_t) * (1 - ab_t) - on_eps * np.sqrt(1 - ab_t)
        published = {
            exact_weight: gamma / variance,
            paper_weight: np.sqrt(ab_t),
            red_diff_weight: np.sqrt(ab_s * ab_t),
            red_diff_weight_without_awd: np.sqrt(ab_t)
            * (np.sqrt(ab_s) - on_eps * np.sqrt(ab_t) / np.sqrt(1 - ab_t)),
            continuous_weight: np.sqrt(ab_s / ab_t)
            * (0.1 + 19.9 * float(now.time))
            * float(now.time - next.time)
            / 2,
        }
        # x_vp' = sqrt(ab_s) x', and J^T v = sqrt(ab_t) g.
        for weight, expected in published.items():
            found = weight(reverse, now, next, jnp.asarray(variance))
            found = found * np.sqrt(ab_s) * np.sqrt(ab_t)
            # Differences of numbers near 1: measured 4e-10.
            np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.usefixtures("x64")
def test_without_guidance_it_is_ddim():
    law = bed()
    solver = PiGDM(grid=grid(), reverse=DDIM(eta=0.5), guidance_scale=0.0)
    first, noise = draws(KEY, (SIZE,), solver.grid.num_steps)
    start = _start(solver, law, first)
    found = solve(KEY, law.problem(), mixture(), solver).x
    expected = _reverse(solver, mixture(), start, noise)
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_noise_free_form_is_the_limit_of_the_noisy_one():
    law, ends = bed(), []
    for std in (1e-4, 1e-6):
        problem = dataclasses.replace(law.problem(), noise=GaussianNoise(std=std))
        pair = [
            np.asarray(solve(KEY, problem, mixture(), kind(grid=grid())).x)
            for kind in (PiGDM, NoiselessPiGDM)
        ]
        ends.append(np.max(np.abs(pair[0] - pair[1])))
    # Of the order of (std / s r)^2.
    assert ends[0] < 1e-3
    assert ends[1] < 1e-3 * ends[0]


def _product(x, matrix):
    return jnp.matmul(matrix, x, precision="highest")


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", [PiGDM, NoiselessPiGDM])
def test_an_operator_without_singular_system_gives_the_same(kind):
    law = bed()
    operator = LinearFunctionOperator.create(_product, (SIZE,), jnp.asarray(law.matrix))
    iterative = dataclasses.replace(law.problem(), operator=operator)
    pair = [
        solve(KEY, problem, mixture(), kind(grid=grid())).x
        for problem in (law.problem(), iterative)
    ]
    # Conjugate gradients to machine precision: measured 2e-13.
    np.testing.assert_allclose(*pair, rtol=1e-9, atol=1e-10)


def _pinv(operator, y):
    return operator.pinv(y)


def _tanh(x):
    return jnp.tanh(x)


def _artanh(operator, y):
    return jnp.arctanh(y)


def _quantise(x):
    return jnp.round(2 * x) / 2


def _identity(operator, y):
    return y


@pytest.mark.usefixtures("x64")
def test_the_nonlinear_form_is_the_noise_free_one_for_linear_operators():
    law = bed()
    linear = NoiselessPiGDM(grid=grid())
    general = NonlinearPiGDM(grid=grid(), h_pinv=_pinv)
    pair = [solve(KEY, law.problem(), mixture(), s).x for s in (linear, general)]
    chex.assert_trees_all_close(*pair, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("function", "inverse"), [(_tanh, _artanh), (_quantise, _identity)]
)
def test_nonlinear_pull(function, inverse):
    """tanh is undone exactly; a quantised value is its own pseudo-inverse."""
    x0_hat, truth = np.linspace(-0.9, 0.9, SIZE), np.linspace(0.8, -0.7, SIZE)
    operator = FunctionOperator.create(function, (SIZE,))
    problem = Problem(
        y=function(jnp.asarray(truth)), operator=operator, noise=GaussianNoise(std=0.1)
    )
    solver = NonlinearPiGDM(grid=grid(), h_pinv=inverse)
    found = solver.pull(problem, jnp.asarray(x0_hat), jnp.asarray(0.5))
    undone = (truth, x0_hat) if function is _tanh else (
        np.round(2 * truth) / 2, np.round(2 * x0_hat) / 2,
    )  # fmt: skip
    np.testing.assert_allclose(found, undone[0] - undone[1], **EXACT64)
    assert solve(KEY, problem, mixture(), solver).status == 0


@pytest.mark.parametrize("kind", [PiGDM, NoiselessPiGDM, NonlinearPiGDM])
def test_published_settings(kind):
    fields = {"h_pinv": _pinv} if kind is NonlinearPiGDM else {}
    paper, red_diff = kind.paper(num_steps=20, **fields), kind.red_diff(**fields)
    assert type(paper) is type(red_diff) is kind
    assert (paper.reverse.eta, paper.weight) == (1.0, paper_weight)
    assert (red_diff.reverse.eta, red_diff.weight) == (0.0, red_diff_weight)
    assert (paper.grid.num_steps, red_diff.grid.num_steps) == (20, 100)


@pytest.mark.usefixtures("x64")
def test_inverse_bench_has_unit_weight_on_its_own_renoising_step():
    """D + sqrt(1 - 0.2^2) s'/s (x - D) + 0.2 s' z + J^T v, from 100 to 0.01."""
    law, x = bed(), np.linspace(-1, 2, SIZE)
    solver = PiGDM.inverse_bench()
    np.testing.assert_allclose(
        np.asarray(solver.grid.sigma[:-1]), np.geomspace(100, 0.01, 100), rtol=1e-9
    )
    now, next = jax.tree.map(lambda leaf: leaf[60], solver.grid.pairs())
    found, _ = solver.step(jnp.asarray(x), (now, next, KEY), law.problem(), law.prior())
    sigma, x0_hat = float(now.sigma), law.denoise(x, float(now.sigma))
    gram = law.matrix @ law.matrix.T
    gram += NOISE_STD**2 * (1 + sigma**2) / sigma**2 * np.eye(law.y.size)
    pull = law.matrix.T @ np.linalg.solve(gram, law.y - law.matrix @ x0_hat)
    z = np.asarray(jax.random.normal(KEY, (SIZE,)))
    kept = np.sqrt(0.96) * float(next.sigma) / sigma * (x - x0_hat)
    renoised = x0_hat + kept + 0.2 * float(next.sigma) * z
    np.testing.assert_allclose(
        found, renoised + law.jacobian(sigma).T @ pull, **EXACT64
    )


@pytest.mark.usefixtures("x64")
def test_the_baseline_of_c_pigdm_is_its_euler_step_in_vp_time():
    """For x_bar = exp(b / 2) x_vp, with the guided part by beta dt exp(b / 2) / 2."""
    law, x = bed(), np.linspace(-1, 2, SIZE)
    solver = NoiselessPiGDM.c_pigdm_baseline()
    assert (solver.grid.num_steps, float(solver.grid.time[0])) == (20, 0.4)
    now, next = jax.tree.map(lambda leaf: leaf[3], solver.grid.pairs())
    found, _ = solver.step(jnp.asarray(x), (now, next, KEY), law.problem(), law.prior())
    t, span = float(now.time), float(now.time - next.time)
    sigma, grown = float(now.sigma), np.exp((0.1 * t + 9.95 * t**2) / 2)
    np.testing.assert_allclose(grown**2, 1 + sigma**2, **EXACT64)
    x0_hat = law.denoise(x, sigma)
    pull = np.linalg.pinv(law.matrix) @ (law.y - law.matrix @ x0_hat)
    guided = grown * law.jacobian(sigma).T @ pull  # d x0_hat / d x_vp
    unguided = x + (float(next.sigma) - sigma) * (x - x0_hat) / sigma
    expected = unguided + 6 * (0.1 + 19.9 * t) * span / 2 * grown * guided
    np.testing.assert_allclose(found, expected, **EXACT64)
