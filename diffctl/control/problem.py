"""Optimal control of a discrete-time system, for one example.

    minimise over u   J(u) = sum_i running_cost(i, x_i, u_i) + terminal_cost(x_T)
    subject to        x_{i+1} = dynamics(i, x_i, u_i),   x_0 given,   i = 0 .. T-1.

States are (T+1, *shape) and controls (T, *control_shape); the two shapes may differ.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.pytree import pytree_dataclass

Dynamics = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
RunningCost = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
TerminalCost = Callable[[jax.Array], jax.Array]
Step = Callable[[jax.Array, jax.Array], jax.Array]


@pytree_dataclass
class ControlEnergy:
    """The running cost 0.5 * weight_i * |u_i|^2.

    The factored backward passes need a running cost of this class: they use that its
    Hessian is a multiple of the identity.
    """

    weight: jax.Array  # (T,), non-negative

    def __call__(self, i: jax.Array, x: jax.Array, u: jax.Array) -> jax.Array:
        """Return the cost of step `i`, a scalar; `x` is ignored."""
        return 0.5 * self.weight[i] * jnp.sum(jnp.square(u))


@pytree_dataclass
class ControlProblem:
    """Dynamics and costs.

    The three fields are callables. They may be plain functions, also ones that close
    over traced arrays; for a problem that is itself an argument of `jax.jit` they must
    be pytrees, such as `jax.tree_util.Partial` or a registered dataclass.
    """

    dynamics: Any  # (i (), x (*shape), u (*control_shape)) -> (*shape)
    running_cost: Any  # (i (), x (*shape), u (*control_shape)) -> ()
    terminal_cost: Any  # (*shape) -> ()


def input_control(step: Step) -> Dynamics:
    """Return the dynamics `step(i, x + u)`: the control perturbs the input."""

    def dynamics(i: jax.Array, x: jax.Array, u: jax.Array) -> jax.Array:
        return step(i, x + u)

    return dynamics


def output_control(step: Step) -> Dynamics:
    """Return the dynamics `step(i, x) + u`: the control perturbs the output."""

    def dynamics(i: jax.Array, x: jax.Array, u: jax.Array) -> jax.Array:
        return step(i, x) + u

    return dynamics


def control_weight(problem: ControlProblem) -> jax.Array:
    """Return the weights (T,) of a problem whose running cost is a `ControlEnergy`.

    Raises `TypeError` for any other running cost.
    """
    cost = problem.running_cost
    if not isinstance(cost, ControlEnergy):
        raise TypeError(
            f"This backward pass needs a ControlEnergy running cost; got "
            f"{type(cost).__name__}. Use DenseBackward or GradientBackward."
        )
    return cost.weight


def step_indices(controls: jax.Array) -> jax.Array:
    """Return 0 .. T-1 as int32, the first argument of the dynamics."""
    return jnp.arange(controls.shape[0], dtype=jnp.int32)


def running_total(
    problem: ControlProblem, states: jax.Array, controls: jax.Array
) -> jax.Array:
    """Return the sum of the running costs of a trajectory, a scalar."""
    steps = step_indices(controls)
    return jnp.sum(jax.vmap(problem.running_cost)(steps, states[:-1], controls))


def total_cost(
    problem: ControlProblem, states: jax.Array, controls: jax.Array
) -> jax.Array:
    """Return J, the running costs plus the terminal cost, a scalar."""
    running = running_total(problem, states, controls)
    return running + problem.terminal_cost(states[-1])
