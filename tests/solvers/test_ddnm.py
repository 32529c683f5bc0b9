"""DDNM, DDNM+ and its simplified form against exact marginals and recursions."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion import Renoise
from diffctl.operators import GaussianNoise, Mask, Problem, WhiteNoise
from diffctl.solvers import (
    DDNM,
    DDRM,
    DDNMPlus,
    SimplifiedDDNMPlus,
    TimeTravel,
    renoise_prediction,
    solve,
)
from diffctl.solvers.ddnm import paper_room
from diffctl.solvers.travel import visited_levels
from tests.solvers import oracle
from tests.solvers.bed import SIZE, bed, grid, mixture
from tests.tolerances import EXACT64

KEY = jax.random.key(6)
STD = 0.3
TRUTH = np.linspace(-0.8, 0.9, 4)


def _draws(key, num_steps):
    """The start, the noise of each step and that of each journey back."""
    start_key, steps_key = jax.random.split(key)
    pairs = jax.vmap(jax.random.split)(jax.random.split(steps_key, num_steps))

    def normal(key):
        return np.asarray(jax.random.normal(key, (SIZE,), jnp.result_type(float)))

    return normal(start_key), [(normal(a), normal(b)) for a, b in pairs]


def _ddnm_by_hand(law, eta, levels, visits, key):
    """Equation (1) with explicit matrices; journeys back by the forward process."""
    pinv, null = np.linalg.pinv(law.matrix), np.eye(SIZE)
    null = null - pinv @ law.matrix
    first, noise = _draws(key, len(visits))
    x = np.sqrt(1 + levels[0] ** 2) * first
    for (i, j, k), (z, back) in zip(visits, noise, strict=True):
        x0_hat = law.denoise(x, levels[i])
        corrected = pinv @ law.y + null @ x0_hat
        eps = (x - x0_hat) / levels[i]
        x = corrected + levels[j] * (eta * z + np.sqrt(1 - eta**2) * eps)
        x = x + np.sqrt(levels[k] ** 2 - levels[j] ** 2) * back
    return x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("travel", [TimeTravel(), TimeTravel(length=2, repeat=3)])
def test_ddnm_is_the_affine_recursion_of_the_paper(travel):
    law, levels = bed(), grid(6)
    solver = DDNM(grid=levels, eta=0.7, travel=travel)
    visits = visited_levels(6, travel.length, travel.repeat)
    solution = solve(KEY, law.problem(), law.prior(), solver)
    expected = _ddnm_by_hand(law, 0.7, np.asarray(levels.sigma), visits, KEY)
    np.testing.assert_allclose(solution.x, expected, **EXACT64)
    assert solution.stats.nfe_fwd == len(visits)


@pytest.mark.usefixtures("x64")
def test_ddnm_explains_the_measurement_exactly():
    law = bed()
    found = solve(KEY, law.problem(), mixture(), DDNM(grid=grid())).x
    np.testing.assert_allclose(law.matrix @ found, law.y, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", [DDNM, DDNMPlus])
def test_an_operator_that_sees_nothing_leaves_the_renoising_sampler(kind):
    solver = kind(grid=grid(), eta=0.6)
    problem = oracle.problem(np.zeros((2, SIZE)), np.zeros(2), STD)
    found = solve(KEY, problem, mixture(), solver).x
    first, noise = _draws(KEY, solver.grid.num_steps)
    x, step = np.sqrt(1 + solver.grid.sigma[0] ** 2) * first, Renoise(eta=0.6)
    for i, (z, _) in enumerate(noise):
        now, next = jax.tree.map(lambda leaf, i=i: leaf[i], solver.grid.pairs())
        x = step(mixture(), x, now, next, z)
    chex.assert_trees_all_close(found, x, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
@pytest.mark.parametrize("sigma", [20.0, 3.0, 0.2, 0.05, 0.0])
def test_ddnm_plus_keeps_the_exact_marginals_of_an_oracle(sigma, eta):
    a, _ = oracle.matrix()
    solver = DDNMPlus(grid=grid(), eta=eta)
    levels = oracle.level(2 * sigma + 1), oracle.level(sigma)

    def step(y, eps, z):
        x = TRUTH + levels[0].sigma * eps
        problem = oracle.problem(a, y, STD)
        return solver.move(problem, x, jnp.asarray(TRUTH), levels, z)

    mean, covariance = oracle.marginal(step, TRUTH, a, STD)
    np.testing.assert_allclose(mean, TRUTH, **EXACT64)
    np.testing.assert_allclose(covariance, sigma**2 * np.eye(4), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_ddnm_plus_is_ddrm_after_the_start():
    """The same law of the next state, for the same noise and from the same state."""
    law = bed()
    now, next = oracle.level(1.5), oracle.level(0.5)
    keys = jax.random.split(KEY)
    state = jnp.linspace(-1, 2, SIZE)
    arguments = (law.problem(), mixture())
    plus, _ = DDNMPlus(grid=grid()).step(state, (now, next, next, KEY), *arguments)
    ddrm, _ = DDRM(grid=grid()).step(state, (now, next, keys[0]), *arguments)
    np.testing.assert_allclose(plus, ddrm, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_without_noise_ddnm_plus_is_ddnm_with_fresh_noise_in_the_range():
    a, right = oracle.matrix()
    y, state, z = np.linspace(-1, 1, 4), np.linspace(-1, 2, 4), np.linspace(1, -2, 4)
    x0_hat, eta = np.linspace(0, 1, 4), 0.6
    levels = oracle.level(1.5), oracle.level(0.5)
    problem = oracle.problem(a, y, 1e-13)
    moved = [
        np.asarray(
            kind(grid=grid(), eta=eta).move(
                problem, jnp.asarray(state), jnp.asarray(x0_hat), levels, jnp.asarray(z)
            )
        )
        for kind in (DDNM, DDNMPlus)
    ]
    ranged = right[:, :3] @ right[:, :3].T
    eps = (state - x0_hat) / 1.5
    mixed = eta * z + np.sqrt(1 - eta**2) * eps
    expected = moved[0] + 0.5 * ranged @ (z - mixed)
    np.testing.assert_allclose(moved[1], expected, **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("sigma", [3.0, 0.3, 0.2, 0.0])
def test_simplified_ddnm_plus_is_exact_for_observed_pixels_only(sigma):
    """In the unobserved ones its noise is what the measurement left over."""
    mask = np.asarray([1.0, 0.0, 1.0, 0.0])
    operator = Mask.from_array(jnp.asarray(mask), (4,))
    solver = SimplifiedDDNMPlus(grid=grid(), eta=0.7)
    levels = oracle.level(2 * sigma + 1), oracle.level(sigma)
    noise = oracle.problem(np.eye(4), TRUTH, STD).noise

    def step(y, eps, z):
        problem = Problem(y=mask * y, operator=operator, noise=noise)
        x = TRUTH + levels[0].sigma * eps
        return solver.move(problem, x, jnp.asarray(TRUTH), levels, z)

    mean, covariance = oracle.marginal(step, TRUTH, np.diag(mask), STD)
    left = max(sigma**2 - STD**2, 0)
    expected = np.where(mask > 0, sigma**2, left)
    np.testing.assert_allclose(mean, TRUTH, **EXACT64)
    np.testing.assert_allclose(covariance, np.diag(expected), **EXACT64)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("std", [1e-9, STD, 5.0])
def test_released_simplified_ddnm_plus_in_its_coordinates(std):
    """On x sqrt(a'), with a' in place of its root and the noise scaled twice."""
    law, sigmas = bed(), (1.5, 0.7)
    solver = SimplifiedDDNMPlus.released_code()
    x, x0_hat, z = (np.linspace(-1, end, SIZE) for end in (2, 1, -3))
    problem = dataclasses.replace(law.problem(), noise=GaussianNoise(std=std))
    found = solver.move(
        problem, jnp.asarray(x), jnp.asarray(x0_hat), tuple(map(oracle.level, sigmas)),
        jnp.asarray(z),
    )  # fmt: skip
    a = 1 / (1 + sigmas[1] ** 2)
    level = np.sqrt(1 - a**2)
    weight, room = 1.0, np.sqrt(max(level**2 - (a * std) ** 2, 0))
    if level < a * std:
        weight, room = level / (a * std), 0.0
    pinv = np.linalg.pinv(law.matrix)
    corrected = x0_hat - weight * pinv @ (law.matrix @ x0_hat - law.y)
    eps = (x - x0_hat) / sigmas[0]
    mixed = np.sqrt(1 - a) * (0.85 * z + np.sqrt(1 - 0.85**2) * eps)
    expected = np.sqrt(a) * corrected + room * mixed
    np.testing.assert_allclose(np.sqrt(a) * found, expected, **EXACT64)
    correct = SimplifiedDDNMPlus(grid=grid()).room(jnp.asarray(0.7), std)
    released = solver.room(jnp.asarray(0.7), std)
    assert released[0] >= correct[0]
    if std == 1e-9:  # the noise is too small even then
        np.testing.assert_allclose(released[1] / correct[1], level, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_the_released_journey_forgets_the_correction():
    """x0_hat + sigma z, so that only the network's prediction travels."""
    law = bed()
    travel = TimeTravel(length=1, repeat=2, diffuse=renoise_prediction)
    solver = DDNM(grid=grid(), travel=travel)
    state = jnp.linspace(-1, 2, SIZE)
    now, next = oracle.level(1.5), oracle.level(0.5)
    arguments = (law.problem(), law.prior())
    back, _ = solver.step(state, (now, next, now, KEY), *arguments)
    z = jax.random.normal(jax.random.split(KEY)[1], (SIZE,), state.dtype)
    expected = law.denoise(np.asarray(state), 1.5) + 1.5 * z
    np.testing.assert_allclose(back, expected, **EXACT64)
    on, _ = solver.step(state, (now, next, next, KEY), *arguments)
    straight, _ = DDNM(grid=grid()).step(state, (now, next, next, KEY), *arguments)
    np.testing.assert_allclose(on, straight, **EXACT64)


def test_journeys_are_those_of_repaint():
    np.testing.assert_array_equal(
        visited_levels(3, 1, 1), [(0, 1, 1), (1, 2, 2), (2, 3, 3)]
    )
    # Down to level 3 of 6, back by two, down again; the last level is visited twice.
    expected = [
        (0, 1, 1), (1, 2, 2), (2, 3, 1), (1, 2, 2), (2, 3, 3),
        (3, 4, 4), (4, 5, 3), (3, 4, 4), (4, 5, 5), (5, 6, 6),
    ]  # fmt: skip
    np.testing.assert_array_equal(visited_levels(6, 2, 2), expected)
    with pytest.raises(ValueError, match="length=0 and repeat=2"):
        visited_levels(6, 0, 2)


def test_needs_and_released_settings():
    assert DDNM.requires_noise is object
    assert DDNMPlus.requires_noise is SimplifiedDDNMPlus.requires_noise is WhiteNoise
    for solver in (DDNM.released_code(), DDNMPlus.released_settings()):
        assert (solver.eta, solver.grid.num_steps) == (0.85, 100)
        expected = [990.0 - 10 * i for i in range(100)] + [-1.0]
        np.testing.assert_array_equal(solver.grid.time, expected)
    with pytest.raises(ValueError, match="num_steps is 30; expected a divisor"):
        DDNM.released_code(num_steps=30)
    photos = DDNM.released_old_photo()
    assert (photos.travel.length, photos.travel.repeat) == (2, 2)
    assert photos.travel.diffuse is renoise_prediction
    # Down by 99 steps and 49 journeys of two, and to the clean level.
    assert photos.levels()[0].sigma.size == 100 + 49 * 2
    changed = dataclasses.replace(DDNM.released_code(), eta=1.0)
    assert changed.eta == 1.0


def test_no_noise_is_added_below_that_of_the_data():
    """In float32, where w s may be a rounding away from sigma'."""
    sigma = np.geomspace(0.01, 0.5, 200).astype(np.float32)
    weight, spread = jax.jit(jax.vmap(paper_room, (0, None)))(sigma, 0.5)
    np.testing.assert_allclose(weight, sigma / 0.5, rtol=1e-6)
    # sqrt(eps) sigma' for some, as a difference of squares
    assert not np.any(spread)
