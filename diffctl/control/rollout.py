"""Rollouts: one `lax.scan` from the initial state to the final one."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.control.linearisation import Linearisation
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

    def step(x: jax.Array, at: Any) -> tuple[jax.Array, jax.Array]:
        i, u = at
        x_next = dynamics(i, x, u)
        return x_next, x_next

    _, later = lax.scan(step, x_init, (step_indices(controls), controls))
    return jnp.concatenate([x_init[None], later])


def record_rollout(
    dynamics: Dynamics,
    linearisation: Linearisation,
    x_init: jax.Array,
    controls: jax.Array,
) -> Trajectory:
    """Roll out and keep what `linearisation` needs later. Cost: T forwards."""

    def step(x: jax.Array, at: Any) -> tuple[jax.Array, Any]:
        i, u = at
        x_next, memory = linearisation.step(dynamics, i, x, u)
        return x_next, (x_next, memory)

    _, (later, memory) = lax.scan(step, x_init, (step_indices(controls), controls))
    states = jnp.concatenate([x_init[None], later])
    return Trajectory(states=states, controls=controls, memory=memory)


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

    def step(x: jax.Array, at: Any) -> tuple[jax.Array, Any]:
        i, x_nominal, base, gains_i = at
        u = base + gains_i.feedback_control(x - x_nominal)
        x_next, memory = linearisation.step(dynamics, i, x, u)
        return x_next, (x_next, u, memory)

    at = (step_indices(controls), nominal[:-1], controls, gains)
    _, (later, applied, memory) = lax.scan(step, x_init, at)
    states = jnp.concatenate([x_init[None], later])
    return Trajectory(states=states, controls=applied, memory=memory)
