"""The guided first rollout against its matrices, and what it is good for."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.control import input_control, output_control
from diffctl.core import DiffusionPrior
from diffctl.operators import FunctionOperator, GaussianNoise, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers import DOC, GuidedControls, NoControls, solve
from diffctl.solvers.costs import likelihood
from tests.solvers.bed import NOISE_STD, SIZE, bed, grid, mixture
from tests.tolerances import EXACT64

KEY = jax.random.key(11)
NUM_STEPS = 4
STRENGTH = 0.7


def _trajectory(solver, problem, prior):
    carry, _ = jax.jit(solver.init)(KEY, problem, prior)
    return carry.iteration.trajectory


def _expected_controls(law, z_init, mode):
    """Equations (1) and (2) with every map a matrix and the loss |r|^2 / (2 s^2)."""
    levels = np.append(np.geomspace(6.0, 0.1, NUM_STEPS), 0.0)
    z, controls = z_init, []
    for now, next_ in pairwise(levels):
        unit, unit_next = np.sqrt(1 + now**2), np.sqrt(1 + next_**2)

        def phi(z, now=now, next_=next_, unit=unit, unit_next=unit_next):
            x0_hat = law.denoise(unit * z, now)
            share = next_ / now
            return (share * unit * z + (1 - share) * x0_hat) / unit_next

        residual = law.matrix @ law.denoise(unit * z, now) - law.y
        variance = NOISE_STD**2 * np.eye(len(law.y)) + now**2 / (1 + now**2) * (
            law.matrix @ law.matrix.T
        )
        descent = law.matrix.T @ np.linalg.solve(variance, residual)
        gamma = now * (now - next_) / (unit * unit_next)
        u = -STRENGTH * gamma * unit * law.jacobian(now).T @ descent
        controls.append(u / np.sqrt(gamma))  # the unit of DOC's unknowns
        z = phi(z + u) if mode is input_control else phi(z) + u
    return np.stack(controls)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mode", [input_control, output_control])
def test_controls_of_a_linear_gaussian_problem(mode):
    law = bed()
    solver = DOC(
        grid=grid(NUM_STEPS),
        control=mode,
        start_scale=1.0,
        first_guess=GuidedControls(strength=STRENGTH),
    )
    found = _trajectory(solver, law.problem(), law.prior())
    expected = _expected_controls(law, np.asarray(found.states[0]), mode)
    chex.assert_trees_all_close(found.controls, jnp.asarray(expected), **EXACT64)


def test_no_controls_are_none():
    law = bed()
    solver = DOC(grid=grid(NUM_STEPS), first_guess=NoControls())
    found = _trajectory(solver, law.problem(), law.prior())
    chex.assert_trees_all_equal(found.controls, jnp.zeros((NUM_STEPS, SIZE)))


def test_guidance_starts_closer_than_no_control():
    problem, prior = bed().problem(), mixture()
    costs = {}
    for guess in (NoControls(), GuidedControls()):
        solver = DOC(grid=grid(20), first_guess=guess, num_steps=1)
        carry, _ = jax.jit(solver.init)(KEY, problem, prior)
        costs[type(guess)] = float(carry.iteration.cost)
    assert costs[GuidedControls] < 0.8 * costs[NoControls], costs


@pytree_dataclass
class Amplifier(DiffusionPrior):
    """No denoiser at all: what comes out is thirty times what went in."""

    shape: tuple[int, ...] = static()

    def denoise(self, x: jax.Array, sigma: jax.Array) -> jax.Array:
        return 30 * x


def test_guidance_that_makes_things_worse_is_not_taken():
    problem, prior = bed().problem(), Amplifier(shape=(SIZE,))
    costs = []
    for guess in (GuidedControls(strength=10.0), NoControls()):
        solver = DOC(
            grid=grid(NUM_STEPS), first_guess=guess, start_scale=1.0, num_steps=1
        )
        carry, _ = jax.jit(solver.init)(KEY, problem, prior)
        costs.append(carry.iteration.cost)
    chex.assert_trees_all_equal(*costs)


def test_a_measurement_met_exactly_is_left_alone():
    """The gradient is zero, and so is the direction of the curvature."""
    law = bed()

    def nothing(x: jax.Array) -> jax.Array:
        return 0 * x[:2]

    operator = FunctionOperator(function=nothing, shape=(SIZE,))
    problem = Problem(y=jnp.zeros(2), operator=operator, noise=GaussianNoise(std=0.1))
    solver = DOC(grid=grid(NUM_STEPS), num_steps=1)
    solution = solve(KEY, problem, law.prior(), solver)
    chex.assert_tree_all_finite(solution.x)
    assert solution.status == 0
    found = _trajectory(solver, problem, law.prior())
    chex.assert_trees_all_equal(found.controls, jnp.zeros_like(found.controls))


def test_a_plain_function_as_cost_is_refused():
    law = bed()

    def plain(problem: Problem):
        return likelihood(problem).__call__

    solver = DOC(grid=grid(NUM_STEPS), terminal=plain)
    with pytest.raises(TypeError, match=r"ComposedCost.*NoControls"):
        solve(KEY, law.problem(), law.prior(), solver)
