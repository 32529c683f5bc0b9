"""Line search and optimiser updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffctl.control import (
    AdjointBackward,
    ControlEnergy,
    ControlProblem,
    GradientBackward,
    LineSearch,
    LowRankGains,
    OptaxUpdate,
    Policy,
    Recompute,
    Trajectory,
    TrajectoryOptimizer,
    optimize,
    output_control,
    rollout,
    total_cost,
)
from diffctl.core import Calls
from tests.tolerances import EXACT64

STEPS, DIM = 3, 2


def sine_problem():
    return ControlProblem(
        dynamics=output_control(lambda i, x: x + jnp.sin(x)),
        running_cost=ControlEnergy(weight=jnp.full(STEPS, 0.1)),
        terminal_cost=lambda x: jnp.sum(jnp.square(x - 1.0)),
    )


def sine_start():
    problem = sine_problem()
    x_init = jnp.asarray([0.3, -0.8])
    controls = jnp.full((STEPS, DIM), 0.1)
    states = rollout(problem.dynamics, x_init, controls)
    cost = total_cost(problem, states, controls)
    return problem, Trajectory(states=states, controls=controls), cost


def policy_along(direction, slope):
    gains = LowRankGains(
        feedforward=direction,
        control_factors=jnp.zeros((STEPS, 1, DIM)),
        core=jnp.ones((STEPS, 1, 1)),
        state_factors=jnp.zeros((STEPS, 1, DIM)),
    )
    return Policy(
        gains=gains,
        slope=jnp.full(STEPS, slope),
        value_grad=jnp.zeros((STEPS + 1, DIM)),
        calls=Calls(),
    )


def search(direction, slope=0.0, **settings):
    settings = {"damping": 0.5, "sufficient_decrease": 0.0} | settings
    rule = LineSearch(**{name: jnp.asarray(value) for name, value in settings.items()})
    _, trajectory, cost = sine_start()
    return _search(rule, direction, jnp.asarray(slope)), trajectory, cost


@jax.jit
def _search(rule, direction, slope):
    problem, trajectory, cost = sine_start()
    state = rule.init(trajectory.controls)
    policy = policy_along(direction, slope)
    return rule(problem, Recompute(), trajectory, cost, policy, state)


@jax.jit
def descent_direction():
    problem, trajectory, _ = sine_start()

    def objective(u):
        return total_cost(
            problem, rollout(problem.dynamics, trajectory.states[0], u), u
        )

    return -jax.grad(objective)(trajectory.controls)


@pytest.mark.parametrize("bad", ["ascent", "nan"])
def test_failed_search_leaves_a_consistent_pair(bad):
    direction = {
        "ascent": -descent_direction(),
        "nan": jnp.full((STEPS, DIM), jnp.nan),
    }[bad]
    result, trajectory, cost = search(direction)
    np.testing.assert_array_equal(result.trajectory.states, trajectory.states)
    np.testing.assert_array_equal(result.trajectory.controls, trajectory.controls)
    np.testing.assert_array_equal(result.cost, cost)
    assert (result.step_size, result.tries) == (0, 10)
    np.testing.assert_allclose(result.state, 5.0)
    problem = sine_problem()
    found = result.trajectory
    again = rollout(problem.dynamics, trajectory.states[0], found.controls)
    np.testing.assert_allclose(again, found.states, **EXACT64)


def test_first_sufficient_candidate_is_taken():
    """Oracle: try the ladder by hand."""
    problem, trajectory, cost = sine_start()
    direction = 3.0 * descent_direction()
    costs = []
    for size in 0.5 ** np.arange(10):
        controls = trajectory.controls + size * direction
        states = rollout(problem.dynamics, trajectory.states[0], controls)
        costs.append(float(total_cost(problem, states, controls)))
    better = int(np.argmax(np.array(costs) < cost))
    assert better > 1  # else the test shows nothing
    result, *_ = search(direction, success_factor=0.1)
    assert result.tries == better + 1
    assert result.step_size == 0.5**better
    np.testing.assert_allclose(result.cost, costs[better], **EXACT64)
    np.testing.assert_allclose(result.state, 0.05)
    states = rollout(problem.dynamics, trajectory.states[0], result.trajectory.controls)
    np.testing.assert_allclose(result.trajectory.states, states, **EXACT64)


def test_sufficient_decrease_is_relative_to_the_slope():
    direction = 0.1 * descent_direction()
    slope = -float(jnp.sum(jnp.square(direction))) * 10 / STEPS
    easy, *_ = search(direction, slope, sufficient_decrease=0.5)
    hard, *_ = search(direction, slope, sufficient_decrease=2.0)
    assert easy.step_size == 1
    assert hard.step_size == 0


def test_damping_has_a_floor():
    direction = 0.1 * descent_direction()
    result, *_ = search(
        direction, damping=1e-8, success_factor=0.1, smallest_damping=1e-8
    )
    np.testing.assert_allclose(result.state, 1e-8)


def run_optax(optimizer, hyperparams, backward=None):
    problem, trajectory, _ = sine_start()
    method = TrajectoryOptimizer(
        backward=GradientBackward() if backward is None else backward,
        update=OptaxUpdate(optimizer=optimizer, hyperparams=hyperparams),
    )
    solve = jax.jit(lambda x, u: optimize(problem, method, x, u, jax.random.key(0), 6))
    return solve(trajectory.states[0], trajectory.controls)[0], problem, trajectory


def test_adamw_is_optax_on_the_summed_objective():
    hyperparams = {"learning_rate": 0.05, "weight_decay": 0.01}
    state, problem, trajectory = run_optax(optax.adamw, hyperparams)

    def objective(u):
        return total_cost(
            problem, rollout(problem.dynamics, trajectory.states[0], u), u
        )

    direct = optax.adamw(**hyperparams)
    gradient = jax.jit(jax.grad(objective))
    controls, moments = trajectory.controls, direct.init(trajectory.controls)
    first = None
    for _ in range(6):
        updates, moments = direct.update(gradient(controls), moments, controls)
        first = updates if first is None else first
        controls = optax.apply_updates(controls, updates)
    np.testing.assert_allclose(state.trajectory.controls, controls, **EXACT64)
    # The first step has the size of the learning rate, up to decay and epsilon.
    np.testing.assert_allclose(np.abs(first), 0.05, rtol=1e-2)


def test_adam_hardly_sees_the_scale_of_the_first_order_gain():
    """k = -Q_u and k = -Q_u / (w + damping) differ by a factor Adam divides out."""
    hyperparams = {"learning_rate": 0.05, "eps": 1e-12}
    plain, *_ = run_optax(optax.adam, hyperparams)
    scaled, *_ = run_optax(optax.adam, hyperparams, AdjointBackward())
    found = scaled.trajectory.controls
    np.testing.assert_allclose(found, plain.trajectory.controls, rtol=1e-8)


def test_any_optax_transformation_descends():
    _, trajectory, cost = sine_start()
    state, *_ = run_optax(optax.sgd, {"learning_rate": 0.02})
    assert state.cost < cost
    assert state.trajectory.states.shape == trajectory.states.shape


def test_hyperparameters_are_leaves():
    problem, trajectory, _ = sine_start()

    def final_cost(rate):
        method = TrajectoryOptimizer(
            backward=GradientBackward(),
            update=OptaxUpdate(
                optimizer=optax.sgd, hyperparams={"learning_rate": rate}
            ),
        )
        key = jax.random.key(0)
        start = trajectory.states[0], trajectory.controls
        return optimize(problem, method, *start, key, 3)[0].cost

    rates = jnp.asarray([0.0, 0.01, 0.02])
    costs, slopes = jax.jit(jax.vmap(jax.value_and_grad(final_cost)))(rates)
    assert np.all(np.diff(costs) < 0)
    assert np.all(slopes < 0)
