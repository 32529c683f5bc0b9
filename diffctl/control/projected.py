"""The paper's projected matrix-free recursion, corrected, for comparison.

Input control only (f_u = f_x). P (k x n) has orthonormal rows, hats are k x k,
V'_xx = P'^T V^' P', a = w + damping:

    C^  = P f_x^T V'_xx f_x P^T = (P' f_x P^T)^T V^' (P' f_x P^T)
    k   = -(Q_u - P^T C^ (a I + C^)^{-1} P Q_u) / a
    K^  = -(a I + C^)^{-1} C^,                       K = P^T K^ P
    V_x = Q_x + P^T K^^T P Q_u,                      V^ = C^ + K^^T C^

Differences from the printed equations (80)-(89): the Woodbury sign, the feedforward
outside the subspace, and the damping inside the value; see the README's list. Whether
it works depends on P alone. With P spanning the pulled-back factors it equals
`LowRankBackward` with the proximal update; a random P captures a fraction k/n of V_xx,
which is what the public code's default does.

Source: Li and Pereira, "Solving Inverse Problems via Diffusion Optimal Control".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffctl.control.backward import (
    BackwardPass,
    StepPoint,
    reverse_sweep,
    sweep_calls,
)
from diffctl.control.linearisation import Linearisation, Pullback
from diffctl.control.lowrank_ilqr import FactoredValue, pull_value
from diffctl.control.policy import HIGHEST, LowRankGains, Policy
from diffctl.control.problem import ControlProblem, control_weight
from diffctl.control.rollout import Trajectory
from diffctl.control.terminal import ExactFactors, TerminalFactors
from diffctl.control.values import identity_like
from diffctl.pytree import pytree_dataclass, static

Basis = Callable[[jax.Array, jax.Array], jax.Array]


def pulled_back_basis(key: jax.Array, rows: jax.Array) -> jax.Array:
    """Return orthonormal rows (k, n) that span the given rows (k, n); no randomness."""
    return jnp.linalg.qr(rows.T)[0].T


def random_basis(key: jax.Array, rows: jax.Array) -> jax.Array:
    """Return random orthonormal rows (k, n), whatever the given rows (k, n) are."""
    return jnp.linalg.qr(jax.random.normal(key, rows.T.shape, rows.dtype))[0].T


class ProjectedValue(NamedTuple):
    """V_x, P^T and V^ of V_xx = P^T V^ P."""

    grad: jax.Array  # (*shape)
    basis: jax.Array  # (k, n), orthonormal rows
    core: jax.Array  # (k, k)


@pytree_dataclass
class ProjectedBackward(BackwardPass):
    """The projected backward pass.

    Needs a `ControlEnergy` running cost, a `ComposedCost` with k >= 1 factors, and
    controls of the shape of the states. Cost a step: one linearisation, k + 1 VJPs.
    """

    basis: Basis = static(default=pulled_back_basis)
    terminal: TerminalFactors = ExactFactors()
    chunk_size: int | None = static(default=None)

    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        trajectory: Trajectory,
        damping: jax.Array,
        key: jax.Array,
    ) -> Policy:
        weight = control_weight(problem)
        _check_input_control(trajectory)
        factor_key, basis_key = jax.random.split(key)
        last = self._terminal_value(problem, trajectory.states[-1], factor_key)
        step_keys = jax.random.split(basis_key, weight.shape[0])
        damping = jnp.broadcast_to(damping, weight.shape)

        def body(
            value: ProjectedValue, point: StepPoint, pullback: Pullback, extra: Any
        ) -> tuple[ProjectedValue, Any]:
            return self._step(value, point, pullback, extra)

        extras = (weight, weight + damping, step_keys)
        _, (gains, slope, value_grad) = reverse_sweep(
            problem, linearisation, trajectory, body, last, extras
        )
        vjps = last.core.shape[0] + 1
        return Policy(
            gains=gains,
            slope=slope,
            value_grad=jnp.concatenate([value_grad, last.grad[None]]),
            calls=sweep_calls(linearisation, weight.shape[0], vjps),
        )

    def _terminal_value(
        self, problem: ControlProblem, x: jax.Array, key: jax.Array
    ) -> ProjectedValue:
        rows = self.terminal(problem.terminal_cost, x, key)
        rows = rows.reshape(rows.shape[0], -1)
        basis = pulled_back_basis(key, rows)
        inside = jnp.matmul(rows, basis.T, precision=HIGHEST)
        core = jnp.matmul(inside.T, inside, precision=HIGHEST)
        return ProjectedValue(jax.grad(problem.terminal_cost)(x), basis, core)

    def _step(
        self, value: ProjectedValue, point: StepPoint, pullback: Pullback, extra: Any
    ) -> tuple[ProjectedValue, Any]:
        weight, damped, key = extra
        rank, shape = value.basis.shape[0], point.x.shape
        rows = value.basis.reshape(rank, *shape)
        pulled_x, pulled_u = pull_value(
            pullback, FactoredValue(value.grad, rows), self.chunk_size
        )
        grad_u = (weight * point.u + pulled_u[0]).reshape(-1)
        pulled_rows = pulled_x[1:].reshape(rank, -1)  # P' f_x
        basis = self.basis(key, pulled_rows)

        inside = jnp.matmul(pulled_rows, basis.T, precision=HIGHEST)
        curved = jnp.matmul(value.core, inside, precision=HIGHEST)
        hess = jnp.matmul(inside.T, curved, precision=HIGHEST)  # C^
        # C^ commutes with its resolvent, so this is symmetric: minus K^.
        gain = jnp.linalg.solve(damped * identity_like(hess) + hess, hess)
        reduced = jnp.matmul(basis, grad_u, precision=HIGHEST)
        inner = jnp.matmul(gain, reduced, precision=HIGHEST)
        inner = jnp.matmul(inner, basis, precision=HIGHEST)
        feedforward = -(grad_u - inner) / damped
        new_rows = basis.reshape(rank, *shape)
        gains = LowRankGains(
            feedforward=feedforward.reshape(shape),
            control_factors=new_rows,
            core=gain,
            state_factors=new_rows,
        )
        grad = pulled_x[0] - inner.reshape(shape)
        core = hess - jnp.matmul(gain.T, hess, precision=HIGHEST)
        slope = jnp.vdot(feedforward, grad_u)
        return ProjectedValue(grad, basis, core), (gains, slope, grad)


def _check_input_control(trajectory: Trajectory) -> None:
    state_shape = trajectory.states.shape[1:]
    control_shape = trajectory.controls.shape[1:]
    if state_shape != control_shape:
        raise ValueError(
            f"ProjectedBackward is written for input_control: controls {control_shape} "
            f"must have the shape of the states {state_shape}. Use LowRankBackward."
        )
