"""First order: the costate recursion.

    costate_T = grad terminal_cost(x_T)
    costate_i = l_x + f_x^T costate_{i+1},     dJ/du_i = l_u + f_u^T costate_{i+1}.

Cost: one linearisation and one VJP a step.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffctl.control.backward import (
    BackwardPass,
    StepPoint,
    reverse_sweep,
    sweep_calls,
)
from diffctl.control.linearisation import Linearisation, Pullback
from diffctl.control.policy import FirstOrderGains, Policy
from diffctl.control.problem import ControlProblem, control_weight
from diffctl.control.rollout import Trajectory
from diffctl.pytree import pytree_dataclass


def adjoint_pass(
    problem: ControlProblem, linearisation: Linearisation, trajectory: Trajectory
) -> tuple[jax.Array, jax.Array]:
    """Return `(gradient, costate)` of J at a trajectory.

    `gradient` (T, *control_shape) is dJ/du, equal to `jax.grad` of the whole rollout;
    `costate` (T+1, *shape) is dJ/dx_i with the later controls held fixed.
    """

    def body(
        costate: jax.Array, point: StepPoint, pullback: Pullback, _: None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        cost_x, cost_u = jax.grad(problem.running_cost, argnums=(1, 2))(
            point.i, point.x, point.u
        )
        pulled_x, pulled_u = pullback(costate)
        costate = cost_x + pulled_x
        return costate, (cost_u + pulled_u, costate)

    last = jax.grad(problem.terminal_cost)(trajectory.states[-1])
    _, (gradient, costate) = reverse_sweep(
        problem, linearisation, trajectory, body, last, None
    )
    return gradient, jnp.concatenate([costate, last[None]])


@pytree_dataclass
class GradientBackward(BackwardPass):
    """Steepest descent, k = -dJ/du, for any running cost; `damping` is ignored."""

    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        trajectory: Trajectory,
        damping: jax.Array,
        key: jax.Array,
    ) -> Policy:
        return _first_order_policy(
            problem, linearisation, trajectory, lambda gradient: -gradient
        )


@pytree_dataclass
class AdjointBackward(BackwardPass):
    """iLQR with the value Hessian set to zero: k = -dJ/du / (w + damping), K = 0.

    Needs a `ControlEnergy` running cost. Equal to `LowRankBackward` at rank zero.
    """

    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        trajectory: Trajectory,
        damping: jax.Array,
        key: jax.Array,
    ) -> Policy:
        scale = control_weight(problem) + damping
        return _first_order_policy(
            problem,
            linearisation,
            trajectory,
            lambda gradient: jax.vmap(lambda g, a: -g / a)(gradient, scale),
        )


def _first_order_policy(
    problem: ControlProblem,
    linearisation: Linearisation,
    trajectory: Trajectory,
    feedforward_of: Callable[[jax.Array], jax.Array],
) -> Policy:
    gradient, costate = adjoint_pass(problem, linearisation, trajectory)
    feedforward = feedforward_of(gradient)
    return Policy(
        gains=FirstOrderGains(feedforward=feedforward),
        slope=jax.vmap(jnp.vdot)(feedforward, gradient),
        value_grad=costate,
        calls=sweep_calls(linearisation, gradient.shape[0], 1),
    )
