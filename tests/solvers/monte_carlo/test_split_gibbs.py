"""Split Gibbs sampling against its exact recursion and its exact stationary law."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import Ancestral, NoiseGrid, geometric
from diffctl.operators import FunctionOperator
from diffctl.solvers import solve
from diffctl.solvers.monte_carlo import likelihood_steps
from diffctl.solvers.monte_carlo.gibbs_schedule import GibbsSchedule
from diffctl.solvers.monte_carlo.likelihood_steps import (
    LangevinLikelihood,
    PerturbedLikelihood,
    SpectralLikelihood,
)
from diffctl.solvers.monte_carlo.split_gibbs import PnPDM
from tests.affine import affine_map
from tests.solvers.bed import NOISE_STD, SIZE, bed, mixture
from tests.solvers.monte_carlo.model import Law, push, s1, step_of
from tests.tolerances import EXACT64, stat

KEY = jax.random.key(9)
DRAWS = 4000
H, STD, Y = 0.7, 0.5, 1.2


def _sweep(law, prior, rho, rows):
    """Push a scalar law through the likelihood step and the steps of the prior."""
    precision = H**2 / STD**2 + 1 / rho**2
    slope = 1 / (rho**2 * precision) * np.eye(1)
    offset = np.asarray([H * Y / (STD**2 * precision)])
    law = push(law, slope, offset, 1 / precision)
    for step in rows:
        law = push(law, *step)
    return law


def _prior_steps(prior, schedule):
    count = int(np.flatnonzero(np.asarray(schedule.next.sigma) == 0)[0]) + 1
    levels = [
        jax.tree.map(lambda leaf, i=i: leaf[i], (schedule.now, schedule.next))
        for i in range(count)
    ]
    return [step_of(prior, Ancestral(), *pair) for pair in levels]


# (rho, mean, variance) of the posterior with noise s_y^2 + rho^2 h^2.
STATIONARY = [
    (1.0, 0.500870, 0.214493),
    (0.3, 0.715867, 0.176488),
    (0.1, 0.759062, 0.168853),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rho", "mean", "variance"), STATIONARY)
def test_exact_steps_have_the_law_of_more_noise(rho, mean, variance, monkeypatch):
    """The solver's likelihood step as an affine map, and the prior's exact law."""
    _, problem = s1()
    draw = SpectralLikelihood()

    def step(x, noise):
        monkeypatch.setattr(
            likelihood_steps, "standard_normal", lambda key, like: noise
        )
        return draw(KEY, problem, x, jnp.asarray(rho))

    to_z = affine_map(step, (1,))
    gain = 0.25 / (0.25 + rho**2)
    # Sweeps forget their start ever more slowly as rho tends to 0.
    kept = 1 / ((1 + (rho * H / STD) ** 2) * (1 + rho**2 / 0.25))
    np.testing.assert_allclose(gain * to_z.matrix, [[kept]], **EXACT64)
    law = Law(np.zeros(1), np.eye(1))
    for _ in range(1000):
        covariance = np.asarray(to_z.noise @ to_z.noise.T)[0, 0]
        law = push(law, np.asarray(to_z.matrix), np.asarray(to_z.offset), covariance)
        law = push(law, gain * np.eye(1), (1 - gain) * np.full(1, 0.3), gain * rho**2)
    found = law.mean[0], law.covariance[0, 0]
    np.testing.assert_allclose(found, (mean, variance), rtol=0, atol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("rho", "mean", "variance"), STATIONARY)
def test_the_stationary_law_is_that_of_more_noise(rho, mean, variance):
    """With noise s_y^2 + rho^2 h^2; here by its recursion, for fine steps."""
    prior, _ = s1()
    ends = []
    for count in (50, 100):
        grid = geometric(count, rho / 100, rho / 1.001)
        rows = _prior_steps(prior, GibbsSchedule.create([rho], grid))
        law = Law(np.zeros(1), np.eye(1))
        for _ in range(300):
            law = _sweep(law, prior, rho, rows)
        ends.append(np.asarray([law.mean[0], law.covariance[0, 0]]))
    # Errors of first order, 6 % of the variance, cancel; of second order is left.
    np.testing.assert_allclose(2 * ends[1] - ends[0], [mean, variance], rtol=0.01)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rho", [1.0, 0.3, 0.1])
def test_the_prior_step_draws_from_the_denoising_posterior(rho):
    """N(m + g (z - m), g rho^2) with g = s^2 / (s^2 + rho^2), for fine steps."""
    (prior, _), z, gain = s1(), 1.7, 0.25 / (0.25 + rho**2)
    variances = []
    for count in (100, 200):
        grid = geometric(count, rho / 1e4, rho / 1.001)
        law = Law(np.full(1, z), np.zeros((1, 1)))
        for row in _prior_steps(prior, GibbsSchedule.create([rho], grid)):
            law = push(law, *row)
        np.testing.assert_allclose(law.mean, 0.3 + gain * (z - 0.3), **EXACT64)
        variances.append(law.covariance[0, 0])
    # Errors of first order cancel; 0.3 to 0.7 % are left, a quarter of that with twice
    # the steps.
    extrapolated = 2 * variances[1] - variances[0]
    np.testing.assert_allclose(extrapolated, gain * rho**2, rtol=0.01)


@pytest.mark.usefixtures("x64")
def test_chains_follow_the_recursion():
    prior, problem = s1()
    rhos = [1.0, 0.5, 0.5]
    levels = NoiseGrid.from_sigmas(np.geomspace(0.4, 0.02, 6))
    solver = PnPDM(schedule=GibbsSchedule.create(rhos, levels))
    keys = jax.random.split(KEY, DRAWS)
    found = jax.vmap(lambda k: solve(k, problem, prior, solver).x[0])(keys)
    law = Law(np.zeros(1), np.eye(1))
    for rho in rhos:
        one = GibbsSchedule.create([rho], levels)
        law = _sweep(law, prior, rho, _prior_steps(prior, one))
    exact = law.covariance[0, 0]
    assert abs(found.mean() - law.mean[0]) < stat(DRAWS) * np.sqrt(exact)
    assert abs(found.var() - exact) < stat(DRAWS) * np.sqrt(2) * exact


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "likelihood",
    [
        SpectralLikelihood(),
        PerturbedLikelihood(),
        LangevinLikelihood(step_size=2e-3, num_inner=400),
    ],
    ids=lambda step: type(step).__name__,
)
def test_likelihood_steps_draw_from_the_conditional_law(likelihood):
    law, rho, x = bed(), 0.5, np.linspace(-1, 1, SIZE)
    precision = law.matrix.T @ law.matrix / NOISE_STD**2 + np.eye(SIZE) / rho**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ (law.matrix.T @ law.y / NOISE_STD**2 + x / rho**2)
    keys = jax.random.split(KEY, 3000)
    draw = jax.jit(jax.vmap(likelihood, in_axes=(0, None, None, None)))
    z = np.asarray(draw(keys, law.problem(), jnp.asarray(x), jnp.asarray(rho)))
    std = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(z.mean(0) - mean) < stat(3000) * std)
    # The Langevin steps widen the stiffest direction by 1 / (1 - h P / 2): 5 %.
    scale = np.outer(std, std) * (1 + 0.05 * isinstance(likelihood, LangevinLikelihood))
    assert np.all(np.abs(np.cov(z.T) - covariance) < stat(3000) * np.sqrt(2) * scale)


def test_published_numbers_of_network_calls():
    """3032 and 2482 in 100 iterations; 64 in the first, 24 and 15 in the last."""
    for rho_min, calls, last in ((0.3, 3032, 24), (0.1, 2482, 15)):
        solver = PnPDM.released_code(rho_min=rho_min)
        assert solver.schedule.rho.size == calls
        ends = np.flatnonzero(np.asarray(solver.ends_of_iterations()))
        assert (ends.size, ends[0] + 1, ends[-1] + 1) == (100, 64, calls)
        assert ends[-1] - ends[-2] == last


def test_what_it_cannot_do_is_said():
    levels = NoiseGrid.from_sigmas([0.4, 0.1])
    with pytest.raises(ValueError, match="Raise rho_min or lower the grid"):
        GibbsSchedule.create([1.0, 0.05], levels)
    solver = PnPDM(schedule=GibbsSchedule.create([0.2], levels))
    operator = FunctionOperator.create(jnp.tanh, (SIZE,))
    problem = dataclasses.replace(bed().problem(), operator=operator, y=jnp.zeros(SIZE))
    with pytest.raises(TypeError, match="SpectralLikelihood needs a SpectralOperator"):
        solve(KEY, problem, mixture(), solver)


def test_couplings_are_compared_as_float32():
    """0.7 is above its rounding to float32, but in float32 the two are one level."""
    levels = NoiseGrid.from_sigmas([0.9, 0.7, 0.3])
    sigma = GibbsSchedule.create([0.7], levels).now.sigma
    np.testing.assert_array_equal(sigma, np.float32([0.7, 0.3]))
    with pytest.raises(ValueError, match="finite levels above the lowest"):
        GibbsSchedule.create([1e39], levels)
    with pytest.raises(ValueError, match="a coupling level is"):
        GibbsSchedule.create([0.5, 0.3 + 1e-10], levels)
