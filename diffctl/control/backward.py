"""The backward pass as a strategy, and the reverse sweep that all of them share."""

import abc
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from diffctl.control.linearisation import Linearisation, Pullback
from diffctl.control.policy import Policy
from diffctl.control.problem import ControlProblem, step_indices
from diffctl.control.rollout import Trajectory
from diffctl.core import Calls
from diffctl.pytree import pytree_dataclass


class BackwardPass(abc.ABC):
    """Turns a trajectory into an affine policy that improves it."""

    @abc.abstractmethod
    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        trajectory: Trajectory,
        damping: jax.Array,
        key: jax.Array,
    ) -> Policy:
        """Sweep from the last step to the first.

        Args:
            problem: dynamics and costs.
            linearisation: the one that recorded `trajectory`.
            trajectory: nominal states, controls and memory.
            damping: () or (T,), added to the control Hessian (see `values`).
            key: for passes that sketch; the others ignore it.
        """


@pytree_dataclass
class StepPoint:
    """The nominal step i, as the reverse sweep meets it."""

    i: jax.Array  # () int32
    x: jax.Array  # (*shape)
    u: jax.Array  # (*control_shape)


SweepBody = Callable[[Any, StepPoint, Pullback, Any], tuple[Any, Any]]


def reverse_sweep(
    problem: ControlProblem,
    linearisation: Linearisation,
    trajectory: Trajectory,
    body: SweepBody,
    init: Any,
    extras: Any,
) -> tuple[Any, Any]:
    """Scan `body(carry, point, pullback, extra)` from the last step to the first.

    `extras` has leaves (T, ...). Returns the final carry and the stacked outputs, which
    are in the order of the steps. Cost: `linearisation.forwards_per_step` forwards a
    step, and the VJPs that `body` takes.
    """
    states, controls = trajectory.states[:-1], trajectory.controls
    pullback_of = linearisation.recall(problem.dynamics, states[0], controls[0])

    def step(carry: Any, at: Any) -> tuple[Any, Any]:
        point, memory, extra = at
        pullback = pullback_of(point.i, point.x, point.u, memory)
        return body(carry, point, pullback, extra)

    points = StepPoint(i=step_indices(controls), x=states, u=controls)
    xs = (points, trajectory.memory, extras)
    return lax.scan(step, init, xs, reverse=True)


def sweep_calls(
    linearisation: Linearisation, num_steps: int, vjps_per_step: int
) -> Calls:
    """Return the calls of one reverse sweep."""
    return Calls(
        fwd=num_steps * linearisation.forwards_per_step, vjp=num_steps * vjps_per_step
    )
