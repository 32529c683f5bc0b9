"""MCGdiff and FPS-SMC: factors in measured directions, against exact Gaussian laws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import VP, Ancestral, NoiseGrid, ddpm, karras, vp_uniform
from diffctl.operators import GaussianNoise, Mask, Problem
from diffctl.solvers.driver import run
from diffctl.solvers.monte_carlo.accounting import (
    Exact,
    Filter,
    PathObservation,
    Released,
)
from diffctl.solvers.monte_carlo.fps_smc import FPSSMC, renoised_path
from diffctl.solvers.monte_carlo.mcgdiff import MCGdiff
from diffctl.solvers.monte_carlo.observation import Observation
from diffctl.solvers.monte_carlo.particles import WholeEnsemble, particles
from diffctl.solvers.monte_carlo.resampling import ResampleAlways
from tests.solvers.bed import SIZE, bed
from tests.solvers.monte_carlo.model import (
    Law,
    model_law,
    moments,
    push,
    scalar,
    start,
    steps,
)
from tests.tolerances import stat

KEY = jax.random.key(6)
GAIN, STD, Y = 0.8, 0.3, 0.2
LEVEL = STD / GAIN  # sigma at which y / GAIN is a noisy signal


def _released():
    """The scalar problem on which the public code counts its measurement twice."""
    return scalar(1.5, 0.5, GAIN, STD, Y)


def _first_above(sigma, level):
    return int(np.sum(sigma >= level)) - 1


def _nearest(sigma, level):
    return int(np.argmin(np.abs(sigma - level)))


def _observed(prior, levels, kappa, y=Y / GAIN, level=LEVEL, which=_first_above):
    """Condition the discretised model on y, as a noisy signal of one of its levels."""
    law, sigma = start(prior, levels), np.asarray(levels.sigma, float)
    for i, step in enumerate(steps(prior, Ancestral(), levels)):
        if i == which(sigma, level):
            above = max(sigma[i] ** 2 - level**2, 0)
            variance = above + kappa * (1 + level**2)
            law = law.given(np.eye(1), np.asarray([y]), variance * np.eye(1))
        law = push(law, *step)
    return law


def _fine_levels():
    return vp_uniform(200, VP(beta_min=0.1, beta_max=25.0))


def _assert_moments(found, law, count):
    """Mean and variance of `count` draws, k = 4."""
    (mean, variance), exact = found, float(law.covariance[0, 0])
    assert abs(mean - law.mean[0]) < stat(count) * np.sqrt(exact)
    assert abs(variance - exact) < stat(count) * np.sqrt(2) * exact


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kappa", "mean", "variance"), [(1e-4, 0.525, 0.099), (0.3, 0.852, 0.235)]
)
def test_without_the_likelihood_kappa_is_the_noise_of_an_observation(
    kappa, mean, variance
):
    """The posterior, N(0.5244, 0.1098), is the limit of small kappa."""
    prior, problem = _released()
    levels = _fine_levels()
    implied = _observed(prior, levels, kappa)
    # The numbers are for 400 steps, of 5000 particles each.
    np.testing.assert_allclose(implied.mean, mean, atol=0.03)
    np.testing.assert_allclose(implied.covariance, variance, atol=0.03)
    solver = MCGdiff.path_observation(grid=levels, num_particles=5000, kappa=kappa)
    _assert_moments(moments(particles(KEY, problem, prior, solver)), implied, 2500)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "grid", [ddpm(100), karras(100, 0.01, 100.0)], ids=["ddpm", "karras"]
)
@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2, 0.5])
def test_the_level_above_makes_up_for_what_coarse_steps_lose(grid, noise):
    """It is further from y than the nearest level, and nearer to the posterior."""
    prior, _ = scalar(0.3, 0.5**2, 1.0, noise, 0.1)
    posterior = 1 / (1 / 0.5**2 + 1 / noise**2)

    def log_error(which):
        law = _observed(prior, grid, 1e-4, 0.1, noise, which)
        return abs(np.log(law.covariance[0, 0] / posterior))

    assert log_error(_first_above) <= log_error(_nearest)
    assert log_error(_first_above) < 0.8


def test_the_released_code_divides_a_factor_out_when_it_goes():
    """Of two directions the first is released while the second is still led."""
    both, second, none = (
        Observation(centre=jnp.zeros(2), variance=jnp.ones(2), active=jnp.asarray(on))
        for on in ([True, True], [False, True], [False, False])
    )
    for now, next, spent, exact in (
        (both, both, [1, 1], [1, 1]),
        (both, second, [1, 1], [0, 1]),
        (second, none, [0, 0], [0, 0]),
    ):
        np.testing.assert_array_equal(Released().spent(now, next), spent)
        np.testing.assert_array_equal(Exact().spent(now, next), exact)
        for accounting in (Released(), Exact()):
            gone = accounting.spent(now, next) | accounting.owed(now, next)
            np.testing.assert_array_equal(gone, now.active)


@jax.jit
def _last_weights(key, problem, prior, solver):
    """Return the particles, and the share of them that counted before the end."""
    whole = WholeEnsemble(solver=solver)
    solution = run(key, problem, prior, whole, record=lambda carry, trace: trace.extra)
    return solution.x, solution.trace[-1] / solver.num_particles


@pytest.mark.usefixtures("x64")
def test_a_moderate_kappa_with_the_likelihood_gives_the_posterior():
    """Effective shares of a quarter to a half; of a small kappa a hundredth."""
    prior, problem = _released()
    levels, noise = _fine_levels(), STD**2 * np.eye(1)
    model = model_law(prior, Ancestral(), levels)
    implied = model.given(np.asarray([[GAIN]]), np.asarray([Y]), noise)
    np.testing.assert_allclose(implied.mean, 0.5244, atol=0.02)
    np.testing.assert_allclose(implied.covariance, 0.1098, atol=0.02)
    solver, shares = MCGdiff(grid=levels, num_particles=5000), []
    for kappa in (0.1, 0.3, 1.0, 1e-4):
        changed = dataclasses.replace(solver, kappa=kappa)
        found, share = _last_weights(KEY, problem, prior, changed)
        if kappa >= 0.1:
            # The resampling before the last costs half of what is left.
            _assert_moments(moments(found), implied, int(2500 * share))
        shares.append(share)
    assert min(shares[:3]) > 0.2
    assert shares[3] < 0.05


@pytest.mark.usefixtures("x64")
def test_the_released_code_counts_the_measurement_twice():
    """Near (0.4041, 0.0616) instead of (0.5244, 0.1098), unless kappa is large."""
    prior, problem = _released()
    levels = vp_uniform(100, VP(beta_min=0.1, beta_max=25.0))
    keys = jax.random.split(KEY, 200)
    # The public function itself, 300 runs of 64 particles.
    public = {1e-6: (0.422, 0.052), 1e-4: (0.427, 0.052), 0.3: (0.580, 0.100)}
    for kappa, (mean, variance) in public.items():
        solver = dataclasses.replace(MCGdiff.released_code(kappa=kappa), grid=levels)
        x = jax.vmap(lambda k, s=solver: particles(k, problem, prior, s).draw()[0])(
            keys
        )
        # Both are estimates: errors of 200 and of 300 runs.
        bound = np.sqrt(1 + 2 / 3) * stat(200)
        assert abs(float(jnp.mean(x)) - mean) < bound * np.sqrt(variance)
        assert abs(float(jnp.var(x)) - variance) < bound * np.sqrt(2) * variance


@pytest.mark.usefixtures("x64")
def test_noise_free_measurements_are_met():
    law = bed()
    operator = Mask.from_array(jnp.asarray([True, False, True, False]), (SIZE,))
    y = jnp.asarray([0.3, 0, -0.4, 0])
    problem = Problem(y=y, operator=operator, noise=GaussianNoise(std=1e-4))
    levels = NoiseGrid.from_sigmas(np.geomspace(10.0, 1e-3, 12))
    solver = MCGdiff.path_observation(grid=levels, num_particles=100, kappa=1e-6)
    found = particles(KEY, problem, law.prior(), solver)
    error = jnp.abs(jax.vmap(operator)(found.x) - y[None, :])
    # sqrt(kappa) and the last level, each 1e-3.
    assert jnp.max(error) < 4 * np.sqrt(2) * 1e-3


def _kalman(prior, solver, schedule):
    """Filter the discretised model with the observations of every level."""
    centre = np.asarray(jnp.concatenate([schedule[2].centre, schedule[3].centre[-1:]]))
    variance = np.asarray(schedule[2].variance)
    active = np.asarray(schedule[2].active)
    law = start(prior, solver.grid)
    for i, step in enumerate(steps(prior, solver.reverse, solver.grid)):
        if active[i, 0]:
            law = law.given(np.eye(1), centre[i], np.diag(variance[i]))
        law = push(law, *step)
    return law


@pytest.mark.usefixtures("x64")
def test_the_filter_of_the_paper_is_a_kalman_filter():
    prior, problem = _released()
    levels = NoiseGrid.from_sigmas(np.geomspace(10.0, 0.02, 12))
    solver = dataclasses.replace(
        FPSSMC.paper(num_particles=2000), grid=levels, resampling=ResampleAlways()
    )
    assert (solver.path, type(solver.accounting)) == (renoised_path, Filter)
    schedule = solver.init(KEY, problem, prior)[1][0]
    law = _kalman(prior, solver, schedule)
    law = law.given(np.asarray([[GAIN]]), np.asarray([Y]), STD**2 * np.eye(1))
    _assert_moments(moments(particles(KEY, problem, prior, solver)), law, 500)
    assert law.covariance[0, 0] < 0.1098 / 2  # far narrower than the posterior


@pytest.mark.usefixtures("x64")
def test_known_paths_lead_to_the_posterior_on_average():
    """Each path gives a law of its own; their mixture is that of `_observed`."""
    prior, problem = _released()
    levels = vp_uniform(100, VP(beta_min=0.1, beta_max=25.0))
    solver = FPSSMC(grid=levels, num_particles=1)
    keys = jax.random.split(KEY, 1000)
    x = jax.vmap(lambda k: particles(k, problem, prior, solver).x[0, 0])(keys)
    first = _first_above(np.asarray(levels.sigma), LEVEL)
    spread = float(levels.sigma[first]) ** 2 - LEVEL**2
    law = Law(np.asarray([Y / GAIN]), spread * np.eye(1))
    for step in list(steps(prior, Ancestral(), levels))[first:]:
        law = push(law, *step)
    _assert_moments((jnp.mean(x), jnp.var(x)), law, 1000)
    np.testing.assert_allclose(law.mean, 0.5244, atol=0.03)
    np.testing.assert_allclose(law.covariance, 0.1098, atol=0.03)


def test_published_settings():
    released = MCGdiff.released_code()
    assert (released.kappa, released.num_particles) == (1e-4, 64)
    quiet = MCGdiff.path_observation(grid=released.grid)
    assert isinstance(quiet.accounting, PathObservation)
