"""DDRM against exact marginals, explicit recursions and its limits."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import Renoise
from diffctl.operators import PoissonNoise
from diffctl.solvers import DDRM, consistent_prediction, solve
from diffctl.solvers.spectral import spectral_step
from tests.solvers import oracle
from tests.solvers.bed import SIZE, bed, draws, grid, mixture
from tests.tolerances import EXACT64

KEY = jax.random.key(5)
STD = 0.3
TRUTH = np.linspace(-0.8, 0.9, 4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eta_b", [1.0, 0.7])
@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
# sigma_y / s is 0.15, 0.5, 6 and infinite: every level has other directions below it.
@pytest.mark.parametrize("sigma", [20.0, 3.0, 0.2, 0.05, 0.0])
def test_an_oracle_keeps_its_exact_marginals(sigma, eta, eta_b):
    a, _ = oracle.matrix()
    now, next = oracle.level(2 * sigma + 1), oracle.level(sigma)

    def step(y, eps, z):
        problem = oracle.problem(a, y, STD)
        x = TRUTH + now.sigma * eps
        return spectral_step(problem, x, jnp.asarray(TRUTH), (now, next), z, eta, eta_b)

    mean, covariance = oracle.marginal(step, TRUTH, a, STD)
    np.testing.assert_allclose(mean, TRUTH, **EXACT64)
    np.testing.assert_allclose(covariance, sigma**2 * np.eye(4), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_start_has_the_first_marginal():
    a, _ = oracle.matrix()
    solver = DDRM(grid=grid(sigma_max=5.0))  # 5 < sigma_y / 0.05

    def start(y, eps, z):
        return solver.start(z, oracle.problem(a, y, STD), None)

    mean, covariance = oracle.marginal(start, TRUTH, a, STD)
    np.testing.assert_allclose(covariance, 25 * np.eye(4), **EXACT64)
    # Directions that are measured well enough already know the truth.
    _, right = oracle.matrix()
    known = np.asarray([1.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(right.T @ mean, known * (right.T @ TRUTH), **EXACT64)


def _by_hand(law, solver, y, std, key):
    """The paper's recursion, one singular direction at a time."""
    _, s, vt = np.linalg.svd(law.matrix, full_matrices=True)
    pinv = np.linalg.pinv(law.matrix)
    s = np.append(s, np.zeros(SIZE - s.size))
    data = vt @ pinv @ y
    levels = np.asarray(solver.grid.sigma)
    first, noise = draws(key, (SIZE,), levels.size - 1)
    z = vt @ first
    bar = np.empty(SIZE)
    for i in range(SIZE):
        known = s[i] * levels[0] > std
        spread = np.sqrt(max(levels[0] ** 2 - (std / max(s[i], 1e-9)) ** 2, 0))
        bar[i] = data[i] + spread * z[i] if known else levels[0] * z[i]
    for now, next, draw in zip(levels[:-1], levels[1:], noise, strict=True):
        x = vt.T @ bar
        prediction = vt @ law.denoise(x, now)
        eps, z = (bar - prediction) / now, vt @ draw
        eta, eta_b = solver.eta, solver.eta_b
        for i in range(SIZE):
            kept = np.sqrt(1 - eta**2) * next
            if s[i] == 0:
                bar[i] = prediction[i] + kept * eps[i] + eta * next * z[i]
            elif next < std / s[i]:
                gap = (data[i] - prediction[i]) / (std / s[i])
                bar[i] = prediction[i] + kept * gap + eta * next * z[i]
            else:
                spread = np.sqrt(next**2 - (eta_b * std / s[i]) ** 2)
                bar[i] = (1 - eta_b) * prediction[i] + eta_b * data[i] + spread * z[i]
    return vt.T @ bar


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eta_b", [1.0, 0.6])
def test_it_is_the_affine_recursion_of_the_paper(eta_b):
    law, solver = bed(), DDRM(grid=grid(), eta=0.7, eta_b=eta_b)
    found = solve(KEY, law.problem(), law.prior(), solver).x
    expected = _by_hand(law, solver, law.y, 0.4, KEY)
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_an_operator_that_sees_nothing_leaves_the_renoising_sampler():
    solver = DDRM(grid=grid(), eta=0.6)
    problem = oracle.problem(np.zeros((2, SIZE)), np.zeros(2), STD)
    found = solve(KEY, problem, mixture(), solver).x
    first, noise = draws(KEY, (SIZE,), solver.grid.num_steps)
    x, step = solver.grid.sigma[0] * first, Renoise(eta=0.6)
    for i, z in enumerate(noise):
        now, next = jax.tree.map(lambda leaf, i=i: leaf[i], solver.grid.pairs())
        x = step(mixture(), x, now, next, z)
    chex.assert_trees_all_close(found, x, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_noise_free_denoising_follows_the_measurement():
    """A = I: every state is y + sigma' z, whatever the network says."""
    y, solver = np.linspace(-1, 1, SIZE), DDRM(grid=grid())
    problem = oracle.problem(np.eye(SIZE), y, 1e-9)
    solution = solve(KEY, problem, mixture(), solver, record=_keep_state)
    _, noise = draws(KEY, (SIZE,), solver.grid.num_steps)
    levels = np.asarray(solver.grid.sigma)[1:-1, None]
    # A noise of 1e-9 is left in place of none.
    expected = y + levels * noise[:-1]
    np.testing.assert_allclose(solution.trace[:-1], expected, rtol=0, atol=1e-8)
    last = mixture().denoise(solution.trace[-2], solver.grid.sigma[-2])
    np.testing.assert_allclose(solution.x, last, **EXACT64)


def _keep_state(carry, trace):
    return carry


@pytest.mark.usefixtures("x64")
def test_the_result_is_the_last_prediction_unless_made_consistent():
    law = bed()
    solver = DDRM(grid=grid())
    plain = solve(KEY, law.problem(), law.prior(), solver).x
    moved = dataclasses.replace(solver, finish=consistent_prediction)
    exact = solve(KEY, law.problem(), law.prior(), moved).x
    assert np.linalg.norm(law.matrix @ plain - law.y) > 0.1
    np.testing.assert_allclose(law.matrix @ exact, law.y, **EXACT64)
    least = np.linalg.pinv(law.matrix) @ (law.y - law.matrix @ plain)
    np.testing.assert_allclose(exact, plain + least, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_tiny_singular_values_are_left_to_the_prior():
    """A direction measured 1e-8 strong is one that is not measured."""
    # With eta = 1, since otherwise such a direction forgets eps_hat.
    solver, y = DDRM(grid=grid(), eta=1.0), np.asarray([0.4, -0.3, 1.0, 0.2])
    matrices = [oracle.matrix((2.0, 0.6, 0.3, last))[0] for last in (1e-8, 0.0)]
    pair = [solve(KEY, oracle.problem(a, y, STD), mixture(), solver) for a in matrices]
    assert pair[0].status == 0
    np.testing.assert_allclose(pair[0].x, pair[1].x, rtol=0, atol=1e-6)


def test_it_refuses_what_it_cannot_use():
    law = bed()
    problem = dataclasses.replace(law.problem(), noise=PoissonNoise(peak=10.0))
    with pytest.raises(TypeError, match="needs a WhiteNoise as noise; PoissonNoise is"):
        solve(KEY, problem, law.prior(), DDRM(grid=grid()))


def test_released_settings():
    solver = DDRM.released_code()
    assert (solver.eta, solver.eta_b, solver.grid.num_steps) == (0.85, 1.0, 20)
    times = [950.0 - 50 * i for i in range(20)] + [-1.0]
    np.testing.assert_array_equal(solver.grid.time, times)
    np.testing.assert_allclose(solver.grid.sigma[0], 97.1043, rtol=1e-5)
    assert all(a > b for a, b in itertools.pairwise(solver.grid.sigma))
