"""Recomputed and stored pull-backs give the same numbers; what is stored is minimal."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.control import (
    ComposedCost,
    ControlEnergy,
    ControlProblem,
    GaussianLoss,
    LineSearch,
    LowRankBackward,
    Recompute,
    StorePullbacks,
    TrajectoryOptimizer,
    adjoint_pass,
    input_control,
    optimize,
    record_rollout,
)
from diffctl.core import Calls
from tests.tolerances import EXACT64, FD64

STEPS, SHAPE = 4, (3, 2)
RANDOM = np.random.default_rng(0)
WEIGHTS = 0.5 * RANDOM.normal(size=(6, 6))
X_INIT = RANDOM.normal(size=SHAPE)


def network_step(weights, i, x):
    """Return a step some of whose residuals are the weights, cast or jitted."""
    cast = weights.astype(jnp.float32).astype(x.dtype)
    hidden = jnp.tanh(cast @ x.reshape(-1)) + jax.nn.silu(2 * weights @ x.reshape(-1))
    return x + hidden.reshape(x.shape) / (1.0 + i)


def make_problem(weights):
    return ControlProblem(
        dynamics=input_control(partial(network_step, weights)),
        running_cost=ControlEnergy(weight=jnp.full(STEPS, 0.3)),
        terminal_cost=ComposedCost(
            map=lambda x: jnp.sin(x[0]) - 0.4, loss=GaussianLoss(std=0.5)
        ),
    )


def make_optimizer(linearisation):
    return TrajectoryOptimizer(
        backward=LowRankBackward(),
        update=LineSearch(max_tries=3, damping=0.01),
        linearisation=linearisation,
    )


@jax.jit
def solve(weights, x_init, optimizer):
    controls = jnp.zeros((STEPS, *SHAPE), x_init.dtype)
    return optimize(
        make_problem(weights), optimizer, x_init, controls, jax.random.key(0), 3
    )


def stored_and_recomputed():
    args = jnp.asarray(WEIGHTS), jnp.asarray(X_INIT)
    both = [
        solve(*args, make_optimizer(linearisation))
        for linearisation in (Recompute(), StorePullbacks())
    ]
    return both[0], both[1]


def test_stored_pullbacks_equal_recomputed_ones():
    (recomputed, trace), (stored, stored_trace) = stored_and_recomputed()
    pairs = (
        (stored.trajectory.states, recomputed.trajectory.states),
        (stored.trajectory.controls, recomputed.trajectory.controls),
        (stored_trace.cost, trace.cost),
    )
    for found, expected in pairs:
        np.testing.assert_allclose(found, expected, **EXACT64)
    assert np.all(np.diff(trace.cost) < 0)


def test_calls_of_an_iteration():
    (_, trace), (_, stored_trace) = stored_and_recomputed()
    rank = 2
    tries = np.asarray(trace.tries)
    assert isinstance(trace.calls, Calls)
    np.testing.assert_array_equal(trace.calls.fwd, STEPS * (1 + tries))
    np.testing.assert_array_equal(stored_trace.calls.fwd, STEPS * tries)
    for calls in (trace.calls, stored_trace.calls):
        np.testing.assert_array_equal(calls.vjp, STEPS * (rank + 1))
        np.testing.assert_array_equal(calls.jvp, 0)


def test_weights_are_not_stored_for_every_step():
    def memory(weights):
        problem = make_problem(weights)
        controls = jnp.zeros((STEPS, *SHAPE))
        x_init = jnp.asarray(X_INIT)
        return record_rollout(problem.dynamics, StorePullbacks(), x_init, controls)

    stored = jax.eval_shape(memory, jnp.asarray(WEIGHTS)).memory
    assert stored
    assert all(leaf.shape[0] == STEPS for leaf in stored)
    assert max(leaf.size for leaf in stored) <= STEPS * X_INIT.size


def step_operations(linearisation):
    """Return the tanh evaluations per step of a rollout and its backward pass."""

    def gradient(x_init):
        problem = ControlProblem(
            dynamics=input_control(lambda i, x: jnp.tanh(x)),
            running_cost=ControlEnergy(weight=jnp.full(STEPS, 0.3)),
            terminal_cost=lambda x: jnp.sum(jnp.square(x)),
        )
        controls = jnp.zeros((STEPS, *SHAPE))
        trajectory = record_rollout(problem.dynamics, linearisation, x_init, controls)
        return adjoint_pass(problem, linearisation, trajectory)[0]

    compiled = jax.jit(gradient).lower(jnp.asarray(X_INIT)).compile()
    return compiled.cost_analysis()["transcendentals"] / X_INIT.size


def test_the_compiled_program_has_no_other_forward_pass():
    """The body of a scan is counted once: rollout, and linearisation if not stored."""
    assert step_operations(Recompute()) == 2
    assert step_operations(StorePullbacks()) == 1


def test_derivatives_of_a_solve():
    """Reverse mode through iterations, line search and stored pull-backs."""
    optimizer = make_optimizer(StorePullbacks())
    x_init, weights = jnp.asarray(X_INIT), jnp.asarray(WEIGHTS)

    def final_cost(x):
        return solve(weights, x, optimizer)[0].cost

    direction = jnp.ones_like(x_init)
    found = jnp.vdot(jax.jit(jax.grad(final_cost))(x_init), direction)
    step = 1e-5 * direction
    central = (final_cost(x_init + step) - final_cost(x_init - step)) / 2e-5
    np.testing.assert_allclose(found, central, **FD64)


def test_vmap_equals_a_loop():
    optimizer = make_optimizer(StorePullbacks())
    starts = jnp.stack([jnp.asarray(X_INIT) * s for s in (0.5, 1.0, 2.0)])
    weights = jnp.asarray(WEIGHTS)
    batched = jax.jit(jax.vmap(lambda x: solve.__wrapped__(weights, x, optimizer)))
    together, trace = batched(starts)
    for n, start in enumerate(starts):
        alone, alone_trace = solve(weights, start, optimizer)
        found = together.trajectory.controls[n]
        np.testing.assert_allclose(found, alone.trajectory.controls, **EXACT64)
        np.testing.assert_array_equal(trace.tries[n], alone_trace.tries)


def test_float32_in_float32_out():
    with jax.enable_x64(False):
        state, trace = solve(
            jnp.asarray(WEIGHTS, jnp.float32),
            jnp.asarray(X_INIT, jnp.float32),
            make_optimizer(StorePullbacks()),
        )
    floats = jax.tree.leaves((state.trajectory, state.cost, state.update_state))
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
    assert np.all(np.diff(trace.cost) <= 0)
