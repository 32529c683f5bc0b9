"""Dense iterative LQR, the oracle of the other backward passes.

    Q_x  = l_x  + f_x^T V'_x            Q_u  = l_u  + f_u^T V'_x
    Q_xx = l_xx + f_x^T V'_xx f_x       Q_uu = l_uu + f_u^T V'_xx f_u
    Q_ux = l_ux + f_u^T V'_xx f_x
    k = -(Q_uu + damping I)^{-1} Q_u    K = -(Q_uu + damping I)^{-1} Q_ux

V' is the value at i+1. The dynamics enter by first derivatives only (with their second
derivatives it would be DDP). States and controls are flattened inside. Memory and
network calls grow with the state size n: n VJPs a step.
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
from diffctl.control.policy import HIGHEST, DenseGains, Policy
from diffctl.control.problem import ControlProblem, RunningCost, TerminalCost
from diffctl.control.rollout import Trajectory
from diffctl.control.values import Proximal, ValueUpdate
from diffctl.pytree import pytree_dataclass, static

TerminalHessian = Callable[[TerminalCost, jax.Array], jax.Array]


@pytree_dataclass
class QExpansion:
    """The quadratic model of one step, on flattened state (n) and control (m)."""

    grad_x: jax.Array  # (n,)
    grad_u: jax.Array  # (m,)
    hess_xx: jax.Array  # (n, n)
    hess_uu: jax.Array  # (m, m), without damping
    hess_ux: jax.Array  # (m, n)


def exact_hessian(terminal_cost: TerminalCost, x: jax.Array) -> jax.Array:
    """Return the Hessian (n, n) of the terminal cost by automatic differentiation.

    It may be indefinite; so may then be Q_uu, and nothing but the damping guards it.
    """
    return jax.hessian(lambda flat: terminal_cost(flat.reshape(x.shape)))(x.reshape(-1))


@pytree_dataclass
class DenseBackward(BackwardPass):
    """The full-matrix backward pass.

    Cost a step: one linearisation and n VJPs, O(n^3) operations, O(n^2) memory.
    Any twice differentiable running cost is allowed.
    """

    terminal_hessian: TerminalHessian = static(default=exact_hessian)
    value_update: ValueUpdate = Proximal()

    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        trajectory: Trajectory,
        damping: jax.Array,
        key: jax.Array,
    ) -> Policy:
        value = self.terminal_value(problem, trajectory)
        damping = jnp.broadcast_to(damping, trajectory.controls.shape[:1])

        def body(
            value: tuple[jax.Array, jax.Array],
            point: StepPoint,
            pullback: Pullback,
            damping_i: jax.Array,
        ) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
            q = expand_step(problem.running_cost, point, pullback, *value)
            feedforward, feedback = damped_gains(q, damping_i)
            value = update_value(self.value_update, q, feedforward, feedback)
            slope = jnp.vdot(feedforward, q.grad_u)
            return value, (
                feedforward.reshape(point.u.shape),
                feedback,
                slope,
                value[0].reshape(point.x.shape),
                value[1],
            )

        _, (feedforward, feedback, slope, value_grad, value_hess) = reverse_sweep(
            problem, linearisation, trajectory, body, value, damping
        )
        last_grad = value[0].reshape(trajectory.states[-1].shape)
        num_steps, state_size = feedback.shape[0], feedback.shape[2]
        return Policy(
            gains=DenseGains(feedforward=feedforward, feedback=feedback),
            slope=slope,
            value_grad=jnp.concatenate([value_grad, last_grad[None]]),
            value_hess=jnp.concatenate([value_hess, value[1][None]]),
            calls=sweep_calls(linearisation, num_steps, state_size),
        )

    def terminal_value(
        self, problem: ControlProblem, trajectory: Trajectory
    ) -> tuple[jax.Array, jax.Array]:
        """Return the gradient (n,) and the Hessian (n, n) of the terminal cost."""
        x = trajectory.states[-1]
        gradient = jax.grad(problem.terminal_cost)(x)
        return gradient.reshape(-1), self.terminal_hessian(problem.terminal_cost, x)


def expand_step(
    running_cost: RunningCost,
    point: StepPoint,
    pullback: Pullback,
    value_grad: jax.Array,
    value_hess: jax.Array,
) -> QExpansion:
    """Return the quadratic model of a step from the value (n,), (n, n) after it."""
    n, m = point.x.size, point.u.size
    rows = jnp.eye(n, dtype=point.x.dtype).reshape(n, *point.x.shape)
    jac_x, jac_u = jax.vmap(pullback)(rows)
    jac_x, jac_u = jac_x.reshape(n, n), jac_u.reshape(n, m)

    def cost(x: jax.Array, u: jax.Array) -> jax.Array:
        return running_cost(point.i, x.reshape(point.x.shape), u.reshape(point.u.shape))

    x, u = point.x.reshape(-1), point.u.reshape(-1)
    cost_x, cost_u = jax.grad(cost, argnums=(0, 1))(x, u)
    (cost_xx, _), (cost_ux, cost_uu) = jax.hessian(cost, argnums=(0, 1))(x, u)
    hess_x = jnp.matmul(value_hess, jac_x, precision=HIGHEST)
    hess_u = jnp.matmul(value_hess, jac_u, precision=HIGHEST)
    return QExpansion(
        grad_x=cost_x + jnp.matmul(value_grad, jac_x, precision=HIGHEST),
        grad_u=cost_u + jnp.matmul(value_grad, jac_u, precision=HIGHEST),
        hess_xx=cost_xx + jnp.matmul(jac_x.T, hess_x, precision=HIGHEST),
        hess_uu=cost_uu + jnp.matmul(jac_u.T, hess_u, precision=HIGHEST),
        hess_ux=cost_ux + jnp.matmul(jac_u.T, hess_x, precision=HIGHEST),
    )


def damped_gains(q: QExpansion, damping: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return k (m,) and K (m, n) by one LU factorisation of Q_uu + damping I."""
    damped = q.hess_uu + damping * jnp.eye(q.grad_u.size, dtype=q.grad_u.dtype)
    right = jnp.concatenate([q.grad_u[:, None], q.hess_ux], axis=1)
    solution = -jnp.linalg.solve(damped, right)
    return solution[:, 0], solution[:, 1:]


def update_value(
    update: ValueUpdate, q: QExpansion, feedforward: jax.Array, feedback: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return V_x (n,) and V_xx (n, n), symmetrised, before the step."""
    curved = jnp.matmul(feedback.T, q.hess_uu, precision=HIGHEST)
    value_grad = q.grad_x + update.correction(
        jnp.matmul(curved, feedforward, precision=HIGHEST),
        jnp.matmul(feedback.T, q.grad_u, precision=HIGHEST),
        jnp.matmul(q.hess_ux.T, feedforward, precision=HIGHEST),
    )
    value_hess = q.hess_xx + update.correction(
        jnp.matmul(curved, feedback, precision=HIGHEST),
        jnp.matmul(feedback.T, q.hess_ux, precision=HIGHEST),
        jnp.matmul(q.hess_ux.T, feedback, precision=HIGHEST),
    )
    return value_grad, 0.5 * (value_hess + value_hess.T)
