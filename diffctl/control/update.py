"""Two ways to apply a policy: with a line search, or through an optimiser.

An update rule is `init(controls) -> state`, `damping(state)`, and a call that returns
the new trajectory, its cost and the new state.
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffctl.control.linearisation import Linearisation
from diffctl.control.linesearch import backtracking
from diffctl.control.policy import Policy
from diffctl.control.problem import ControlProblem, total_cost
from diffctl.control.rollout import Trajectory, feedback_rollout
from diffctl.pytree import pytree_dataclass, static


class UpdateResult(NamedTuple):
    """A trajectory, its cost, and the state of the update rule after it."""

    trajectory: Trajectory
    cost: jax.Array  # ()
    state: Any
    step_size: jax.Array  # () accepted step size; 0 if rejected
    tries: jax.Array  # () int32, rollouts made


class UpdateRule(abc.ABC):
    """Moves a trajectory along a policy."""

    @abc.abstractmethod
    def init(self, controls: jax.Array) -> Any:
        """Return the first state of the rule; `controls` (T, *control_shape)."""

    @abc.abstractmethod
    def damping_of(self, state: Any) -> jax.Array:
        """Return the damping for the next backward pass, () or (T,)."""

    @abc.abstractmethod
    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        trajectory: Trajectory,
        cost: jax.Array,
        policy: Policy,
        state: Any,
    ) -> UpdateResult:
        """Apply `policy`; T forwards per rollout made."""


@pytree_dataclass
class LineSearch(UpdateRule):
    """Backtracking, with the damping multiplied after each success or failure."""

    damping: Any = 1e-3  # () or (T,), initial
    failure_factor: Any = 10.0
    success_factor: Any = 1.0
    smallest_damping: Any = 1e-8
    sufficient_decrease: Any = 1e-4  # c of `linesearch`
    max_tries: int = static(default=10)

    def init(self, controls: jax.Array) -> jax.Array:
        return jnp.asarray(self.damping, controls.dtype)

    def damping_of(self, state: jax.Array) -> jax.Array:
        return state

    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        trajectory: Trajectory,
        cost: jax.Array,
        policy: Policy,
        state: jax.Array,
    ) -> UpdateResult:
        found = backtracking(
            problem,
            linearisation,
            trajectory,
            cost,
            policy,
            self.max_tries,
            jnp.asarray(self.sufficient_decrease, cost.dtype),
        )
        factor = jnp.where(
            found.step_size > 0, self.success_factor, self.failure_factor
        )
        damping = jnp.maximum(state * factor, self.smallest_damping)
        return UpdateResult(
            found.trajectory,
            found.cost,
            damping.astype(state.dtype),
            found.step_size,
            found.tries,
        )


@pytree_dataclass
class OptaxUpdate(UpdateRule):
    """The update preconditioned by any optax optimiser, unconditionally accepted.

        u~ = u + optimiser(gradient = -k),       u_i = u~_i + K_i (x_i - x_i^old)

    The moments see -k only; the next iteration starts from the controls with their
    feedback. One rollout. With Adam this is the update of Li and Pereira.

    `optimizer` is a constructor such as `optax.adamw`, and `hyperparams` its keyword
    arguments: they are leaves, so one compiled program serves a sweep over them.
    """

    optimizer: Callable[..., optax.GradientTransformation] = static(default=optax.adam)
    hyperparams: Any  # dict[str, scalar]
    damping: Any = 1e-3  # () or (T,), constant

    def init(self, controls: jax.Array) -> Any:
        return self._transformation().init(controls)

    def damping_of(self, state: Any) -> jax.Array:
        return jnp.asarray(self.damping)

    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        trajectory: Trajectory,
        cost: jax.Array,
        policy: Policy,
        state: Any,
    ) -> UpdateResult:
        controls = trajectory.controls
        updates, state = self._transformation().update(
            -policy.gains.feedforward, state, controls
        )
        moved = feedback_rollout(
            problem.dynamics,
            linearisation,
            trajectory.states[0],
            trajectory.states,
            optax.apply_updates(controls, updates),
            policy.gains,
        )
        cost = total_cost(problem, moved.states, moved.controls)
        return UpdateResult(moved, cost, state, jnp.ones_like(cost), jnp.int32(1))

    def _transformation(self) -> optax.GradientTransformation:
        return self.optimizer(**self.hyperparams)
