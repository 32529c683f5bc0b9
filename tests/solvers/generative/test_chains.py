"""Chains against exact posteriors; many independent ones, from the exact posterior."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.solvers import (
    HMC,
    MALA,
    DensityChain,
    LatentChain,
    Unadjusted,
    solve,
)
from tests.solvers.bed import NOISE_STD, SIZE, bed
from tests.solvers.generative.models import (
    QuadraticEnergy,
    generator,
    posterior,
    product,
    quadratic,
    two_modes,
)
from tests.tolerances import EXACT64, stat

KEY = jax.random.key(22)
NUM = 4000


def _ends(solver, problem, prior, num=NUM):
    """Return the ends of independent chains and the share of accepted proposals."""
    keys = jax.random.split(KEY, num)
    solution = jax.vmap(lambda k: solve(k, problem, prior, solver, record=_accepted))(
        keys
    )
    return np.asarray(solution.x), float(jnp.mean(solution.trace))


def _accepted(carry, trace):
    return trace.extra


def _assert_moments(x, mean, covariance):
    """Means and covariances of n independent draws, k = 4."""
    variance = np.diag(covariance)
    assert np.all(np.abs(x.mean(0) - mean) < stat(len(x)) * np.sqrt(variance))
    # The product of two normal deviates has variance C_ii C_jj + C_ij^2.
    spread = np.sqrt(np.outer(variance, variance) + covariance**2)
    error = np.abs(np.cov(x.T) - covariance)
    assert np.all(error < stat(len(x)) * spread)


@pytest.mark.usefixtures("x64")
def test_bias_of_the_unadjusted_chain():
    """An affine recursion: stationary variance 1 / (P (1 - e P / 4)) with e = 2 h."""
    precision, std, step_size = 3.0, 0.5, 0.1
    total = precision + 1 / std**2
    prior = QuadraticEnergy(
        precision=jnp.asarray([[precision]]), mean=jnp.asarray([0.3])
    )
    problem = Problem(
        y=jnp.asarray([0.8]),
        operator=DenseMatrix.from_array(jnp.eye(1)),
        noise=GaussianNoise(std=std),
    )
    solver = DensityChain(num_steps=1, kernel=Unadjusted(step_size=step_size))

    def move(x, key):
        start = dataclasses.replace(solver, start_from=lambda *_: x)
        point = start.start(KEY, problem, prior)
        return start.step(point, key, problem, prior)[0].x

    mean = (precision * 0.3 + 0.8 / std**2) / total
    slope = jax.jacobian(move)(jnp.asarray([0.0]), KEY)[0, 0]
    noise = move(jnp.asarray([mean]), KEY) - mean
    unit = noise / jax.random.normal(KEY, (1,), jnp.float64)
    variance = unit[0] ** 2 / (1 - slope**2)
    epsilon = 2 * step_size
    expected = 1 / (total * (1 - epsilon * total / 4))
    np.testing.assert_allclose(variance, expected, **EXACT64)


@pytest.mark.parametrize(
    "kernel",
    [MALA(step_size=0.03), HMC(step_size=0.2, num_leapfrog=5)],
    ids=lambda kernel: type(kernel).__name__,
)
def test_adjusted_chains_sample_the_posterior_of_a_quadratic_energy(kernel):
    """Chains that start in the posterior stay there at any step; n = 4000, k = 4.

    Unadjusted steps of this size would be far off.
    """
    law = bed()
    mean, covariance = posterior(law, NOISE_STD, law.mean, law.covariance)
    root = jnp.asarray(np.linalg.cholesky(covariance))

    def exact_start(key, problem, prior):
        return jnp.asarray(mean) + product(root, jax.random.normal(key, (SIZE,)))

    solver = DensityChain(num_steps=8, kernel=kernel, start_from=exact_start)
    x, accepted = _ends(solver, law.problem(), quadratic(law))
    assert 0.3 < accepted < 0.9
    _assert_moments(x, mean, covariance)


def test_latent_chain_samples_the_posterior_of_a_generator():
    law, prior = bed(), generator()
    solver = LatentChain(num_steps=60, kernel=MALA(step_size=0.05))
    x, _ = _ends(solver, law.problem(), prior)
    w, b = np.asarray(prior.weights), np.asarray(prior.offset)
    _assert_moments(x, *posterior(law, NOISE_STD, b, w @ w.T))


def test_a_single_chain_stays_in_its_mode():
    """The share of a mode is that of the starts, not the posterior's."""
    law, prior = bed(), two_modes()
    problem = dataclasses.replace(law.problem(), noise=GaussianNoise(std=3.0))
    solver = DensityChain(num_steps=30, kernel=MALA(step_size=0.02))
    x, _ = _ends(solver, problem, prior, 500)
    share = np.mean(x.sum(1) > 0)
    exact = prior.mixture.posterior(law.y, jnp.asarray(law.matrix), 3.0)
    first = float(jnp.exp(exact.log_weights[0]))
    # n = 500 draws of a standard deviation of at most 1/2, k = 4.
    assert abs(share - first) > stat(500) / 2
    inside = x[x.sum(1) > 0]
    mean = np.asarray(exact.components.mean[0])
    # Standard deviations of the mode are below 0.35.
    assert np.all(np.abs(inside.mean(0) - mean) < 0.35 * stat(len(inside)))


@pytest.mark.usefixtures("x64")
def test_the_trace_tells_acceptance_and_misfit():
    law, prior = bed(), generator()
    solver = LatentChain(num_steps=12, kernel=MALA(step_size=0.05))

    def both(carry, trace):
        return carry.x, trace.misfit, trace.extra, carry.num_accepted

    solution = solve(KEY, law.problem(), prior, solver, record=both)
    z, misfit, accepted, count = solution.trace
    np.testing.assert_array_equal(np.cumsum(accepted), count)
    assert 0 < count[-1] < 12
    residual = law.matrix @ np.asarray(jax.vmap(prior.decode)(z)).T - law.y[:, None]
    expected = (residual**2).sum(0) / (2 * NOISE_STD**2)
    np.testing.assert_allclose(misfit, expected, **EXACT64)
    assert solution.x.shape == (SIZE,)
