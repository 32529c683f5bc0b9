"""iLQR with a value Hessian in factors: exact algebra, r + 1 VJPs a step.

With V'_xx = F F^T (F: n x r), Q_uu = w I + ..., a = w + damping, at every step

    Y = f_x^T F,   W = f_u^T F,   Q_x = f_x^T V'_x,   Q_u = w u + f_u^T V'_x
    N = a I + W^T W = L L^T,      S = N^{-1}
    k = -(Q_u - W S W^T Q_u) / a,      K = - W S Y^T
    V_x = Q_x - Y (S + c1 S^2) W^T Q_u
    F  <- Y R,   R R^T = c2 S + c3 S^2            (c1, c2, c3: see `values`)

The rank never grows and nothing is sketched again. Given the exact factors of the
terminal Hessian the gains are those of the dense pass. The weights of the terminal
Hessian are kept inside F (C = I in the literature's U C U^T): one array to carry, and
V_xx is positive semi-definite whatever the rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from diffctl.control.backward import (
    BackwardPass,
    StepPoint,
    reverse_sweep,
    sweep_calls,
)
from diffctl.control.linearisation import Cotangents, Linearisation, Pullback
from diffctl.control.policy import HIGHEST, LowRankGains, Policy
from diffctl.control.problem import ControlProblem, control_weight
from diffctl.control.rollout import Trajectory
from diffctl.control.terminal import ExactFactors, TerminalFactors
from diffctl.control.values import Proximal, ReducedUpdate, ValueUpdate, identity_like
from diffctl.numerics import chunked_vmap
from diffctl.pytree import pytree_dataclass, static

NormalFactor = Callable[[jax.Array, jax.Array], jax.Array]


def gram_cholesky(rows: jax.Array, shift: jax.Array) -> jax.Array:
    """Return L (r, r), lower, with L L^T = shift I + W^T W, from the Gram matrix.

    `rows` is W^T (r, m). O(m r^2) operations, one product. Breaks down (NaN) when the
    ratio of |W|^2 to `shift` exceeds the inverse machine epsilon.
    """
    gram = jnp.matmul(rows, rows.T, precision=HIGHEST)
    return jnp.linalg.cholesky(gram + shift * identity_like(gram))


def stacked_qr(rows: jax.Array, shift: jax.Array) -> jax.Array:
    """Return a factor as `gram_cholesky` does, by a thin QR of W over sqrt(shift) I.

    Never squares W: it keeps twice the digits, for a QR of an (m + r, r) matrix. Use it
    in float32 with a weak control weight.
    """
    floor = jnp.sqrt(shift) * jnp.eye(rows.shape[0], dtype=rows.dtype)
    return jnp.linalg.qr(jnp.concatenate([rows.T, floor]), mode="r").T


class FactoredValue(NamedTuple):
    """V_x and the rows F^T of V_xx = F F^T."""

    grad: jax.Array  # (*shape)
    rows: jax.Array  # (r, *shape)


@pytree_dataclass
class LowRankBackward(BackwardPass):
    """The factored backward pass.

    Needs a `ControlEnergy` running cost with weight + damping > 0, and a `ComposedCost`
    unless the factors are `NoFactors`.

    Cost a step: one linearisation (none if stored) and r + 1 VJPs, taken as one
    vmapped pull-back, plus O(n r^2) operations. Memory: 2 r + 2 arrays of the size of a
    state per step for the policy.
    """

    terminal: TerminalFactors = ExactFactors()
    value_update: ValueUpdate = Proximal()
    normal_factor: NormalFactor = static(default=gram_cholesky)
    chunk_size: int | None = static(default=None)  # cotangents pulled back at once

    def __call__(
        self,
        problem: ControlProblem,
        linearisation: Linearisation,
        trajectory: Trajectory,
        damping: jax.Array,
        key: jax.Array,
    ) -> Policy:
        weight = control_weight(problem)
        damping = jnp.broadcast_to(damping, weight.shape)
        x_last = trajectory.states[-1]
        last = FactoredValue(
            jax.grad(problem.terminal_cost)(x_last),
            self.terminal(problem.terminal_cost, x_last, key),
        )

        def body(
            value: FactoredValue,
            point: StepPoint,
            pullback: Pullback,
            extra: tuple[jax.Array, jax.Array],
        ) -> tuple[FactoredValue, Any]:
            pulled = pull_value(pullback, value, self.chunk_size)
            gains, slope, value = self._step(point, pulled, *extra)
            return value, (gains, slope, value)

        _, (gains, slope, values) = reverse_sweep(
            problem, linearisation, trajectory, body, last, (weight, damping)
        )
        return Policy(
            gains=gains,
            slope=slope,
            value_grad=jnp.concatenate([values.grad, last.grad[None]]),
            value_hess=jnp.concatenate([values.rows, last.rows[None]]),
            calls=sweep_calls(linearisation, weight.shape[0], last.rows.shape[0] + 1),
        )

    def _step(
        self,
        point: StepPoint,
        pulled: Cotangents,
        weight: jax.Array,
        damping: jax.Array,
    ) -> tuple[LowRankGains, jax.Array, FactoredValue]:
        pulled_x, pulled_u = pulled
        rank, shape = pulled_x.shape[0] - 1, point.x.shape
        grad_u = (weight * point.u + pulled_u[0]).reshape(-1)
        state_rows = pulled_x[1:].reshape(rank, point.x.size)
        control_rows = pulled_u[1:].reshape(rank, point.u.size)

        root = _inverse_root(self.normal_factor(control_rows, weight + damping))
        core = jnp.matmul(root.T, root, precision=HIGHEST)
        reduced = jnp.matmul(control_rows, grad_u, precision=HIGHEST)
        solved = jnp.matmul(core, reduced, precision=HIGHEST)
        returned = jnp.matmul(solved, control_rows, precision=HIGHEST)
        feedforward = -(grad_u - returned) / (weight + damping)

        update = self.value_update.reduced(weight, damping)
        shift = solved + update.gradient * jnp.matmul(core, solved, precision=HIGHEST)
        shift = jnp.matmul(shift, state_rows, precision=HIGHEST)
        rows = jnp.matmul(_value_root(root, update), state_rows, precision=HIGHEST)
        gains = LowRankGains(
            feedforward=feedforward.reshape(point.u.shape),
            control_factors=pulled_u[1:],
            core=core,
            state_factors=pulled_x[1:],
        )
        value = FactoredValue(
            pulled_x[0] - shift.reshape(shape), rows.reshape(rank, *shape)
        )
        return gains, jnp.vdot(feedforward, grad_u), value


def pull_value(
    pullback: Pullback, value: FactoredValue, chunk_size: int | None
) -> Cotangents:
    """Pull V_x and all rows back together: (r+1, *shape) and (r+1, *control_shape)."""
    if value.rows.shape[0] == 0:
        pulled_x, pulled_u = pullback(value.grad)
        return pulled_x[None], pulled_u[None]
    stacked = jnp.concatenate([value.grad[None], value.rows])
    return chunked_vmap(pullback, chunk_size)(stacked)


def _inverse_root(lower: jax.Array) -> jax.Array:
    """Return L^{-1}, so that S = L^{-T} L^{-1}."""
    return solve_triangular(lower, identity_like(lower), lower=True)


def _value_root(root: jax.Array, update: ReducedUpdate) -> jax.Array:
    """Return R^T (r, r) with R R^T = c2 S + c3 S^2, from L^{-1}."""
    inner = update.hessian * identity_like(root)
    inner += update.hessian_squared * jnp.matmul(root, root.T, precision=HIGHEST)
    return jnp.matmul(jnp.linalg.cholesky(inner).T, root, precision=HIGHEST)
