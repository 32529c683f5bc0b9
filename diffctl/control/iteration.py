"""Iterative LQR assembled: linearisation x backward pass x update rule.

One iteration = one backward pass around the current trajectory, then the update, whose
last rollout is the trajectory of the next iteration: no state is computed twice.

    forwards = T tries + T (0 with stored pull-backs),    VJPs = T (r + 1)
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.control.backward import BackwardPass
from diffctl.control.linearisation import Linearisation, Recompute
from diffctl.control.problem import ControlProblem, total_cost
from diffctl.control.rollout import Trajectory, record_rollout
from diffctl.control.update import UpdateRule
from diffctl.core import Calls
from diffctl.pytree import pytree_dataclass


@pytree_dataclass
class IterationState:
    """The carry of the iteration; `cost` belongs to `trajectory`."""

    trajectory: Trajectory
    cost: jax.Array  # () J
    update_state: Any  # damping or optimiser moments


@pytree_dataclass
class IterationTrace:
    """Scalars about one iteration."""

    cost: jax.Array  # () J after the iteration
    slope: jax.Array  # () sum_i k_i . Q_u,i, negative for a descent direction
    step_size: jax.Array  # () accepted; 0 if the step was rejected
    tries: jax.Array  # () int32, rollouts made
    damping: jax.Array  # () or (T,), used in this iteration
    calls: Calls  # calls of the dynamics


@pytree_dataclass
class TrajectoryOptimizer:
    """A choice of backward pass, update rule and linearisation; pure and vmappable."""

    backward: BackwardPass
    update: UpdateRule
    linearisation: Linearisation = Recompute()

    def init(
        self, problem: ControlProblem, x_init: jax.Array, controls: jax.Array
    ) -> IterationState:
        """Roll out the first controls (T, *control_shape). Cost: T forwards."""
        dynamics, linearisation = problem.dynamics, self.linearisation
        return self.start(
            problem, record_rollout(dynamics, linearisation, x_init, controls)
        )

    def start(self, problem: ControlProblem, trajectory: Trajectory) -> IterationState:
        """Begin with a trajectory that was recorded with the same linearisation."""
        return IterationState(
            trajectory=trajectory,
            cost=total_cost(problem, trajectory.states, trajectory.controls),
            update_state=self.update.init(trajectory.controls),
        )

    def step(
        self, problem: ControlProblem, state: IterationState, key: jax.Array
    ) -> tuple[IterationState, IterationTrace]:
        """Do one iteration; `key` is for backward passes that sketch."""
        damping = self.update.damping_of(state.update_state)
        policy = self.backward(
            problem, self.linearisation, state.trajectory, damping, key
        )
        result = self.update(
            problem,
            self.linearisation,
            state.trajectory,
            state.cost,
            policy,
            state.update_state,
        )
        num_steps = policy.slope.shape[0]
        trace = IterationTrace(
            cost=result.cost,
            slope=jnp.sum(policy.slope),
            step_size=result.step_size,
            tries=result.tries,
            damping=damping,
            calls=policy.calls + Calls(fwd=num_steps * result.tries),
        )
        next_state = IterationState(
            trajectory=result.trajectory,
            cost=result.cost,
            update_state=result.state,
        )
        return next_state, trace


def optimize(
    problem: ControlProblem,
    optimizer: TrajectoryOptimizer,
    x_init: jax.Array,
    controls: jax.Array,
    key: jax.Array,
    num_steps: int,
) -> tuple[IterationState, IterationTrace]:
    """Run `num_steps` iterations; the trace has leaves (num_steps, ...).

    `x_init` (*shape), first `controls` (T, *control_shape). Wrap it in `jax.jit` with
    `num_steps` static; batch it with `jax.vmap`.
    """
    state = optimizer.init(problem, x_init, controls)

    def body(state: IterationState, key: jax.Array) -> Any:
        return optimizer.step(problem, state, key)

    return lax.scan(body, state, jax.random.split(key, num_steps))
