"""Markov kernels against closed forms, and against laws that they must leave alone."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics.langevin import (
    Phase,
    Point,
    draw_velocity,
    hamiltonian_step,
    langevin_step,
    leapfrog,
    mala_step,
    random_walk_step,
    run_chain,
    underdamped_step,
)
from diffctl.numerics.normal import standard_normal
from tests.tolerances import EXACT64, stat

KEY = jax.random.key(3)
PRECISION = 5.0


def _pull(x):
    return -PRECISION * x


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("step_size", "momentum"), [(0.1, 0.0), (0.3, 0.6)])
def test_stationary_variance_of_the_unadjusted_chain(step_size, momentum):
    """The kernel is affine in (x, v, z): its stationary law solves a linear system."""
    z = 0.7

    def step(state):
        return jnp.stack(underdamped_step(z, Phase(*state), _pull, step_size, momentum))

    offset = np.asarray(step(jnp.zeros(2))) / z
    matrix = np.asarray(jax.jacobian(step)(jnp.zeros(2)))
    system = np.eye(4) - np.kron(matrix, matrix)
    covariance = np.linalg.solve(system, np.outer(offset, offset).ravel())
    bias = 1 - step_size * PRECISION / (2 * (1 + momentum))
    np.testing.assert_allclose(covariance[0], 1 / (PRECISION * bias), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_without_momentum_the_chains_are_the_same():
    x = jnp.asarray([0.3, -1.2])
    draw = partial(standard_normal, like=x)

    def walk(z, x):
        return langevin_step(z, x, jnp.tanh, 0.02)

    def underdamped(z, state):
        return underdamped_step(z, state, jnp.tanh, 0.02, 0.0)

    found = run_chain(KEY, underdamped, draw_velocity(KEY, x), 7, draw=draw).x
    expected = run_chain(KEY, walk, x, 7, draw=draw)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num_steps", [1, 7, 23, 40, 100])
def test_a_chain_is_its_steps_one_by_one(num_steps):
    """Every step has a key of its own, drawn from in blocks or not."""
    x = jnp.asarray([0.3, -1.2])

    def walk(z, x):
        return langevin_step(z, x, jnp.tanh, 0.02)

    def walk_by_key(key, x):
        return walk(standard_normal(key, x), x)

    expected = x
    for key in jax.random.split(KEY, num_steps):
        expected = walk_by_key(key, expected)
    draw = partial(standard_normal, like=x)
    in_blocks = run_chain(KEY, walk, x, num_steps, draw=draw)
    np.testing.assert_allclose(in_blocks, expected, **EXACT64)
    by_key = run_chain(KEY, walk_by_key, x, num_steps)
    np.testing.assert_allclose(by_key, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_one_langevin_step():
    x = jnp.asarray([0.3, -1.2])
    noise = standard_normal(KEY, x)
    found = langevin_step(noise, x, _pull, 0.02)
    np.testing.assert_allclose(
        found, x - 0.02 * PRECISION * x + np.sqrt(0.04) * noise, **EXACT64
    )


def _log_density(x):
    """A lopsided mixture in the plane: weights 0.3 and 0.7, different widths."""
    wide = jnp.log(0.3) - jnp.log(0.64) - jnp.sum((x - 1.0) ** 2) / 1.28
    narrow = jnp.log(0.7) - jnp.log(0.25) - jnp.sum((x + 0.8) ** 2) / 0.5
    return jnp.logaddexp(wide, narrow)


def _exact_draws(num):
    rng = np.random.default_rng(4)
    wide = rng.uniform(size=(num, 1)) < 0.3
    noise = rng.normal(size=(num, 2))
    return jnp.asarray(np.where(wide, 1.0 + 0.8 * noise, -0.8 + 0.5 * noise))


EXACT_KERNELS = {
    "random_walk": (Point.at, partial(random_walk_step, step_size=0.5)),
    "mala": (Point.with_score, partial(mala_step, step_size=0.3)),
    "hamiltonian": (
        Point.with_score,
        partial(hamiltonian_step, step_size=0.6, num_leapfrog=3),
    ),
}


@pytest.mark.parametrize("name", EXACT_KERNELS)
def test_adjusted_kernels_keep_their_law_for_large_steps(name):
    """n = 10000 chains that start in the law, k = 4; about half is accepted."""
    num = 10_000
    start, step = EXACT_KERNELS[name]
    x = _exact_draws(num)

    @jax.jit
    @jax.vmap
    def move(key, x):
        point = start(x, _log_density)
        return run_chain(key, lambda k, p: step(k, p, _log_density), point, 4)

    end = move(jax.random.split(KEY, num), x)
    acceptance = np.mean(end.num_accepted) / 4
    assert 0.3 < acceptance < 0.9
    before, after = np.asarray(x), np.asarray(end.x)
    assert np.mean(np.any(after != before, axis=-1)) > 0.6
    for statistic in (lambda v: v[:, 0], lambda v: v[:, 0] * v[:, 1], _is_narrow):
        # Both ends are samples of the law: the difference has at most twice the spread.
        bound = 2 * stat(num) * np.std(statistic(before))
        assert abs(np.mean(statistic(after)) - np.mean(statistic(before))) < bound


def test_small_steps_of_a_random_walk_are_accepted():
    x = _exact_draws(100)

    @jax.jit
    @jax.vmap
    def move(key, x):
        step = partial(random_walk_step, log_density=_log_density, step_size=1e-6)
        return run_chain(key, step, Point.at(x, _log_density), 10)

    accepted = move(jax.random.split(KEY, 100), x).num_accepted
    # A step of 1e-3 changes log pi by a few 1e-3: one of 1000 refused, or a few.
    assert np.mean(accepted) / 10 > 0.99


def _is_narrow(x):
    return np.sum((x + 0.8) ** 2, axis=-1) < 0.2


@pytest.mark.usefixtures("x64")
def test_leapfrog_is_reversible_and_of_second_order():
    x, velocity = jnp.asarray([0.4, -0.3]), jnp.asarray([0.7, 1.1])
    start = Point.with_score(x, _log_density)

    @partial(jax.jit, static_argnums=3)
    def follow(point, velocity, step_size, num_steps):
        return leapfrog(point, velocity, _log_density, step_size, num_steps)

    end, fast = follow(start, velocity, 0.1, 50)
    back, slow = follow(end, -fast, 0.1, 50)
    chex.assert_trees_all_close((back.x, -slow), (x, velocity), **EXACT64)

    def energy_error(step_size, num_steps):
        point, v = follow(start, velocity, step_size, num_steps)
        energy = jnp.sum(v**2) / 2 - point.log_density
        return float(energy - jnp.sum(velocity**2) / 2 + start.log_density)

    ratio = energy_error(0.02, 50) / energy_error(0.01, 100)
    np.testing.assert_allclose(ratio, 4, rtol=0.02)


def test_nan_is_never_accepted():
    point = Point.at(jnp.asarray([0.1, 0.2]), _log_density)
    moved = random_walk_step(KEY, point, lambda x: jnp.nan * jnp.sum(x), 0.5)
    chex.assert_trees_all_equal(moved, point)
