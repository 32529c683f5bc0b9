"""Particles against the posterior of the discretised model, in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import DDPM, Ancestral, NoiseGrid, karras
from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.priors import GaussianPrior
from diffctl.solvers import solve
from diffctl.solvers.monte_carlo.ddsmc import DDSMC, PartialRenoise
from diffctl.solvers.monte_carlo.mcgdiff import MCGdiff
from diffctl.solvers.monte_carlo.particles import particles
from diffctl.solvers.monte_carlo.resampling import (
    NeverResample,
    ResampleAlways,
    systematic,
)
from diffctl.solvers.monte_carlo.tds import TDS
from diffctl.solvers.monte_carlo.twists import (
    PlainTwist,
    SpectralTwist,
)
from tests.solvers.bed import NOISE_STD, grid
from tests.solvers.monte_carlo.model import (
    likely_bed,
    model_law,
    moments,
    s1,
)
from tests.tolerances import stat

KEY = jax.random.key(5)
NUM_KEYS = 200

# Twists wide enough for weights of finite variance on a grid this coarse.
SOLVERS = {
    "tds": TDS(grid=None, num_particles=32, guidance_scale=0.3),
    "tds_plain": TDS(
        grid=None,
        num_particles=32,
        twist=PlainTwist(),
        guidance_scale=0.02,
        resampling=NeverResample(),
    ),
    "tds_spectral": TDS(
        grid=None,
        num_particles=32,
        twist=SpectralTwist(signal_std=0.7),
        resampling=ResampleAlways(scheme=systematic),
    ),
    "ddsmc": DDSMC(grid=None, num_particles=32, signal_std=0.4),
    "ddsmc_partial": DDSMC(
        grid=None,
        num_particles=32,
        reverse=PartialRenoise(eta=0.4),
        resampling=ResampleAlways(),
        signal_std=0.4,
    ),
    "mcgdiff": MCGdiff(grid=None, num_particles=32, kappa=0.5),
}


def _ensembles(solver, problem, prior, num_keys=NUM_KEYS):
    keys = jax.random.split(KEY, num_keys)
    found = jax.vmap(lambda key: particles(key, problem, prior, solver))(keys)
    evidence = np.exp(jax.vmap(lambda p: p.log_evidence)(found))
    return found, evidence, np.asarray(jax.vmap(lambda p: p.mean())(found))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SOLVERS)
def test_weights_are_unbiased(name):
    """E[Z] = p(y) and E[Z mean] = p(y) E[x0 | y] for any number of particles."""
    law = likely_bed()
    solver = dataclasses.replace(SOLVERS[name], grid=grid(6))
    model = model_law(law.prior(), solver.reverse, solver.grid)
    evidence = model.evidence(law.matrix, law.y, NOISE_STD)
    noise = NOISE_STD**2 * np.eye(law.y.size)
    posterior = model.given(law.matrix, law.y, noise)
    _, found, means = _ensembles(solver, law.problem(), law.prior())
    assert abs(found.mean() - evidence) < stat(NUM_KEYS) * found.std()
    excess = found[:, None] * (means - posterior.mean[None, :])
    assert np.all(np.abs(excess.mean(0)) < stat(NUM_KEYS) * excess.std(0))
    # The comparison means something: the standard error of p(y) is below 7 %.
    assert found.std() < 0.07 * np.sqrt(NUM_KEYS) * evidence


@pytest.mark.usefixtures("x64")
def test_errors_shrink_with_the_root_of_the_number_of_particles():
    law, errors = likely_bed(), []
    model = model_law(law.prior(), Ancestral(), grid(6))
    noise = NOISE_STD**2 * np.eye(law.y.size)
    exact = model.given(law.matrix, law.y, noise).mean
    for count in (16, 256):
        solver = dataclasses.replace(SOLVERS["tds"], grid=grid(6), num_particles=count)
        *_, means = _ensembles(solver, law.problem(), law.prior(), 100)
        errors.append(np.sqrt(np.mean((means - exact[None, :]) ** 2)))
    # 4 for the ratio 16, within four standard errors of 6 %.
    assert 3 < errors[0] / errors[1] < 5


@pytest.mark.usefixtures("x64")
def test_mcgdiff_in_eight_dimensions():
    """Z times means and squares has no bias either, with three of eight directions."""
    rng = np.random.default_rng(12)
    root = rng.normal(size=(8, 8)) / 3
    prior = GaussianPrior.from_moments(
        rng.normal(size=8) / 3, root @ root.T + 0.1 * np.eye(8)
    )
    matrix = rng.normal(size=(3, 8)) / 2
    problem = Problem(
        y=jnp.asarray(matrix @ np.asarray(prior.mean) + 0.5),
        operator=DenseMatrix.from_array(jnp.asarray(matrix)),
        noise=GaussianNoise(std=NOISE_STD),
    )
    solver = dataclasses.replace(SOLVERS["mcgdiff"], grid=grid(6))
    model = model_law(prior, solver.reverse, solver.grid)
    noise = NOISE_STD**2 * np.eye(3)
    exact = model.given(matrix, np.asarray(problem.y), noise)
    found, evidence, _ = _ensembles(solver, problem, prior)
    variances = np.diag(exact.covariance)
    gap = found.x - exact.mean[None, None, :]
    excesses = gap, gap**2 - variances[None, None, :]
    for excess, scale in zip(excesses, (np.sqrt(variances), variances), strict=True):
        means = jnp.einsum("kn,knd->kd", _weights(found), excess, precision="highest")
        error = evidence[:, None] * np.asarray(means)
        assert np.all(np.abs(error.mean(0)) < stat(NUM_KEYS) * error.std(0))
        # The comparison means something: errors of 0.3 of the spread would show.
        assert np.all(stat(NUM_KEYS) * error.std(0) < 0.3 * evidence.mean() * scale)


def _hundred_ddpm_levels():
    timesteps = np.floor(np.linspace(0, 999, 100))
    return NoiseGrid.from_times(timesteps[::-1], DDPM.linear())


def _implied(prior, reverse, levels):
    model = model_law(prior, reverse, levels)
    posterior = model.given(np.asarray([[0.7]]), np.asarray([1.2]), 0.25 * np.eye(1))
    return [float(v) for v in (*model.mean, *model.covariance.ravel())] + [
        float(v) for v in (*posterior.mean, *posterior.covariance.ravel())
    ]


def _assert_close(found, expected, count):
    """Within 4 standard errors of `count` independent draws."""
    (mean, variance), (exact, exact_variance) = found, expected
    assert abs(mean - exact) < stat(count) * np.sqrt(exact_variance)
    assert abs(variance - exact_variance) < stat(count) * np.sqrt(2) * exact_variance


@pytest.mark.usefixtures("x64")
def test_tds_on_the_scalar_anchor():
    prior, problem = s1()
    levels = _hundred_ddpm_levels()
    implied = _implied(prior, Ancestral(), levels)
    published = [0.299997, 0.219109, 0.724895, 0.153282]
    np.testing.assert_allclose(implied, published, atol=1e-6)
    solver = TDS(grid=levels, num_particles=4000, twist=SpectralTwist(signal_std=0.5))
    found = particles(KEY, problem, prior, solver)
    # Sequential sampling is worth about half of its particles here.
    _assert_close(moments(found), implied[2:], 2000)


@pytest.mark.usefixtures("x64")
def test_ddsmc_on_the_scalar_anchor():
    prior, problem = s1()
    levels = karras(100, 0.01, 100.0)
    published = {
        1.0: [0.299993, 0.222541, 0.729526, 0.154954],
        0.5: [0.299993, 0.153226, 0.626645, 0.117837],
        0.0: [0.299993, 0.117182, 0.564157, 0.095295],
    }
    for eta, numbers in published.items():
        reverse = PartialRenoise(eta=eta)
        implied = _implied(prior, reverse, levels)
        # The dossier of the numbers rounds the mean: 1.2e-5 at eta = 0 (measured).
        np.testing.assert_allclose(implied, numbers, atol=2e-5)
        solver = DDSMC(grid=levels, num_particles=4000, reverse=reverse, signal_std=0.5)
        found = particles(KEY, problem, prior, solver)
        _assert_close(moments(found), implied[2:], 2000)


def _within(solver, levels, num_keys):
    """Mean of the variance within a run on the scalar anchor, and its spread."""
    prior, problem = s1()
    solver = dataclasses.replace(solver, grid=levels)
    found, *_ = _ensembles(solver, problem, prior, num_keys)
    weights = _weights(found)
    centre = jnp.sum(found.x[..., 0] * weights, axis=1)
    variances = np.sum((found.x[..., 0] - centre[:, None]) ** 2 * weights, axis=1)
    return variances.mean(), variances.std()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("count", "variance"), [(8, 0.10), (64, 0.145)])
def test_few_particles_of_tds_are_too_close_together(count, variance):
    """The posterior has 0.1533, 4000 particles 0.155."""
    solver = TDS(
        grid=None,
        num_particles=count,
        twist=SpectralTwist(signal_std=0.5),
        resampling=ResampleAlways(scheme=systematic),
    )
    found, spread = _within(solver, _hundred_ddpm_levels(), 120)
    # The published number is an average of 60 runs, ours of twice as many.
    assert abs(found - variance) < np.sqrt(1.5) * stat(60) * spread


@pytest.mark.usefixtures("x64")
def test_multinomial_resampling_at_every_step_collapses_sixteen_particles():
    """Variance within a run: 0.155 is exact; that of 16 draws is 15/16 of it."""
    levels = karras(100, 0.01, 100.0)
    solver = DDSMC(grid=None, num_particles=16, signal_std=0.5)
    when_degenerate, _ = _within(solver, levels, 100)
    assert 0.125 < when_degenerate < 0.165
    always = dataclasses.replace(solver, resampling=ResampleAlways())
    for eta, variance in ((1.0, 0.029), (0.5, 0.032), (0.0, 0.035)):
        changed = dataclasses.replace(always, reverse=PartialRenoise(eta=eta))
        found, spread = _within(changed, levels, 100)
        assert abs(found - variance) < stat(100) * spread


@pytest.mark.usefixtures("x64")
def test_the_weights_that_collapse_are_nearly_equal():
    """Relative effective sizes of above 0.98, on average over a hundred steps."""
    prior, problem = s1()
    solver = DDSMC(
        grid=karras(100, 0.01, 100.0),
        num_particles=16,
        signal_std=0.5,
        resampling=ResampleAlways(),
    )
    sizes = solve(KEY, problem, prior, solver, record=_effective_size).trace
    assert jnp.mean(sizes) > 0.98 * 16


def _effective_size(carry, trace):
    return trace.extra


def _weights(ensembles):
    return jax.vmap(lambda p: p.weights)(ensembles)
