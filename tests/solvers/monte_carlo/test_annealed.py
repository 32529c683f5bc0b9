"""Annealed chains: exact at every step size, and able to change modes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.core import DiffusionPrior
from diffctl.diffusion import NoiseGrid, NoiseLevel
from diffctl.metrics import split_r_hat
from diffctl.operators import DenseMatrix, GaussianNoise, Problem
from diffctl.priors import GaussianMixturePrior
from diffctl.pytree import pytree_dataclass
from diffctl.solvers import solve
from diffctl.solvers.kernels import HMC, MALA
from diffctl.solvers.monte_carlo.annealed import AnnealedMCMC, Chain
from tests.solvers.bed import NOISE_STD, SIZE, bed
from tests.solvers.monte_carlo.model import Law
from tests.tolerances import stat

KEY = jax.random.key(2)
DRAWS = 4000


def _level(sigma):
    sigma = jnp.asarray(sigma)
    return NoiseLevel(sigma=sigma, scale=jnp.ones_like(sigma), time=sigma)


def _posterior(law, sigma, inflation):
    """p_sigma(x) N(y; A x, s_y^2 I + inflation sigma^2 A A^T), normalised."""
    prior = Law(law.mean, law.covariance + sigma**2 * np.eye(SIZE))
    spread = inflation * sigma**2 * law.matrix @ law.matrix.T
    return prior.given(law.matrix, law.y, NOISE_STD**2 * np.eye(law.y.size) + spread)


def _assert_moments(x, exact):
    """Independent draws (n, d), k = 4."""
    std, bound = np.sqrt(np.diag(exact.covariance)), stat(len(x))
    assert np.all(np.abs(np.mean(x, axis=0) - exact.mean) < bound * std)
    error = np.abs(np.cov(x.T) - exact.covariance)
    assert np.all(error < bound * np.sqrt(2) * np.outer(std, std))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kernel", "step_sizes"),
    [(MALA(), (0.3, 0.7, 1.2)), (HMC(num_leapfrog=3), (0.5, 1.0, 1.4))],
    ids=["mala", "hmc"],
)
def test_steps_of_any_size_leave_the_annealed_posterior_invariant(kernel, step_sizes):
    """From exact draws; at the largest step the variance would else double."""
    law, sigma = bed(), 0.8
    exact = _posterior(law, sigma, inflation=1.0)
    levels = NoiseGrid.from_sigmas([sigma])
    root = np.linalg.cholesky(exact.covariance)
    white = np.random.default_rng(0).normal(size=(DRAWS, SIZE))
    starts = jnp.asarray(exact.mean + white @ root.T)

    @jax.jit
    def sweep(solver):
        def one(key, x):
            chain = Chain(x=x, log_density=jnp.zeros(()))
            at = (_level(sigma), _level(sigma), key)
            moved, trace = solver.step(chain, at, law.problem(), law.prior())
            return moved.x, trace.extra

        return jax.vmap(one)(jax.random.split(KEY, DRAWS), starts)

    for step_size in step_sizes:
        changed = dataclasses.replace(kernel, step_size=step_size)
        x, accepted = sweep(AnnealedMCMC(grid=levels, kernel=changed))
        assert 0.3 < jnp.mean(accepted) < 0.999
        _assert_moments(x, exact)
        assert np.max(np.abs(x - starts)) > 0.5
    assert jnp.mean(accepted) < 0.97


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "kernel",
    [MALA(step_size=0.8), HMC(step_size=0.7, num_leapfrog=3)],
    ids=["mala", "hmc"],
)
def test_the_last_sweeps_mix_in_the_posterior_of_the_lowest_level(kernel):
    """With the plain likelihood, c = 0; split R-hat after a third of the sweeps."""
    law, sigma, count = bed(), 0.8, 500
    solver = AnnealedMCMC(
        grid=NoiseGrid.from_sigmas([sigma]), kernel=kernel, num_sweeps=10, num_last=30
    )
    keys = jax.random.split(KEY, count)
    problem, prior = law.problem(), law.prior()
    found = jax.vmap(lambda k: solve(k, problem, prior, solver, record=_position))(keys)
    assert jnp.max(split_r_hat(found.trace[:, 11:])) < 1.01
    _assert_moments(found.x, _posterior(law, sigma, inflation=0.0))


def _position(carry, trace):
    return carry.x


@pytest.mark.usefixtures("x64")
def test_annealing_finds_the_weights_of_the_modes():
    """Two modes that the measurement weights 0.82 to 0.18; a low level alone cannot."""
    means = [[-1.5, 0.3], [1.5, 0.1]]
    prior = GaussianMixturePrior.from_moments(
        [0.75, 0.25], means, [0.05 * np.eye(2)] * 2
    )
    matrix = jnp.asarray([[0.2, 1.0]])
    problem = Problem(
        y=jnp.asarray([0.1]),
        operator=DenseMatrix.from_array(matrix),
        noise=GaussianNoise(std=0.2),
    )
    posterior = prior.posterior(problem.y, matrix, 0.2)
    exact = float(jnp.exp(posterior.log_weights[0]))
    shares = []
    for sigmas in (np.geomspace(6.0, 0.1, 25), np.geomspace(0.12, 0.1, 25)):
        solver = AnnealedMCMC(
            grid=NoiseGrid.from_sigmas(sigmas),
            kernel=HMC(step_size=0.4, num_leapfrog=5),
            num_sweeps=4,
        )
        keys = jax.random.split(KEY, 600)
        found = jax.vmap(
            lambda k, s=solver: solve(k, problem, prior, s, record=_position)
        )(keys)
        shares.append(float(jnp.mean(found.x[:, 0] < 0)))
    error = np.abs(np.asarray(shares) - exact)
    assert error[0] < stat(600) * np.sqrt(exact * (1 - exact))
    assert error[1] > 3 * stat(600) * np.sqrt(exact * (1 - exact))
    # The chains at the low level disagree, each about a mode of its own.
    assert split_r_hat(found.trace)[0] > 2


@pytree_dataclass
class _Denoiser(DiffusionPrior):
    shape = (SIZE,)

    def denoise(self, x, sigma):
        return x


def test_a_prior_without_a_density_is_refused():
    solver = AnnealedMCMC(grid=NoiseGrid.from_sigmas([1.0]))
    with pytest.raises(TypeError, match="AnnealedMCMC needs a NoisyDensityPrior"):
        solve(KEY, bed().problem(), _Denoiser(), solver)
