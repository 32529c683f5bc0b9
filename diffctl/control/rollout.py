"""Rollouts: one `lax.scan` from the initial state to the final one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.control.linearisation import Linearisation, Recompute
from diffctl.control.policy import Gains
from diffctl.control.problem import Dynamics, step_indices
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class Trajectory:
    """Controls, the states they lead to, and what the linearisation stored."""

    states: jax.Array  # (T+1, *shape)
    controls: jax.Array  # (T, *control_shape)
    memory: Any = None  # of the `Linearisation`; leaves (T, ...)


def rollout(dynamics: Dynamics, x_init: jax.Array, controls: jax.Array) -> jax.Array:
    """Return the states (T+1, *shape) that `controls` (T, *control_shape) lead to.

    Entry 0 is `x_init`. Cost: T forwards.
    """
    return record_rollout(dynamics, Recompute(), x_init, controls).states


def steered_rollout(
    dynamics: Dynamics,
    linearisation: Linearisation,
    x_init: jax.Array,
    steer: Callable[[jax.Array, jax.Array, Any], jax.Array],
    at: Any,
) -> Trajectory:
    """Roll out controls that are chosen on the way, and keep what is needed later.

    Args:
        dynamics: of the problem.
        linearisation: what to keep of each step.
        x_init: where to start (*shape).
        steer: `steer(i, x_i, at_i) -> u_i`.
        at: what `steer` is given besides, leaves (T, ...).

    Returns:
        The trajectory. Cost: T forwards, and the calls of `steer`.
    """

    def step(x: jax.Array, at: Any) -> tuple[jax.Array, Any]:
        i, at_i = at
        u = steer(i, x, at_i)
        x_next, memory = linearisation.step(dynamics, i, x, u)
        return x_next, (x_next, u, memory)

    indices = step_indices(jax.tree.leaves(at)[0])
    _, (later, applied, memory) = lax.scan(step, x_init, (indices, at))
    states = jnp.concatenate([x_init[None], later])
    return Trajectory(states=states, controls=applied, memory=memory)


def record_rollout(
    dynamics: Dynamics,
    linearisation: Linearisation,
    x_init: jax.Array,
    controls: jax.Array,
) -> Trajectory:
    """Roll out controls (T, *control_shape). Cost: T forwards."""
    given = lambda i, x, u: u  # noqa: E731
    return steered_rollout(dynamics, linearisation, x_init, given, controls)


def feedback_rollout(
    dynamics: Dynamics,
    linearisation: Linearisation,
    x_init: jax.Array,
    nominal: jax.Array,
    controls: jax.Array,
    gains: Gains,
) -> Trajectory:
    """Roll out the affine policy u_i = controls_i + K_i (x_i - nominal_i).

    Args:
        dynamics: of the problem.
        linearisation: what to keep of each step.
        x_init: where to start (*shape); `nominal[0]` unless the system was disturbed.
        nominal: states (T+1, *shape) at which the gains were computed.
        controls: open-loop part (T, *control_shape), feedforward included.
        gains: leaves (T, ...); only their feedback is used.

    Returns:
        The trajectory, whose controls include the feedback. Cost: T forwards.
    """

    def affine(i: jax.Array, x: jax.Array, at: Any) -> jax.Array:
        base, x_nominal, gains_i = at
        return base + gains_i.feedback_control(x - x_nominal)

    at = (controls, nominal[:-1], gains)
    return steered_rollout(dynamics, linearisation, x_init, affine, at)
