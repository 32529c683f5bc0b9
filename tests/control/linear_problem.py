"""Random linear-quadratic problems and their solution in closed form.

x_N = Phi x_0 + sum_i B_i u_i with B_i = (product of the later steps) f_u. With terminal
cost |A x - y|^2 / (2 std^2), running costs w_i |u_i|^2 / 2, S = sum_i B_i B_i^T / w_i,

    u_i = B_i^T A^T (std^2 I + A S A^T)^{-1} (y - A Phi x_0) / w_i.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.control import (
    ComposedCost,
    ControlEnergy,
    ControlProblem,
    GaussianLoss,
)
from diffctl.pytree import pytree_dataclass

STEPS, DIM, MEASURED, STD = 6, 9, 3, 0.4


@pytree_dataclass
class AffineStep:
    """x_{i+1} = matrix_i x + control_matrix_i u + offset_i."""

    matrix: Any  # (T, n, n)
    control_matrix: Any  # (T, n, m)
    offset: Any  # (T, n)

    def __call__(self, i: jax.Array, x: jax.Array, u: jax.Array) -> jax.Array:
        return self.matrix[i] @ x + self.control_matrix[i] @ u + self.offset[i]


@pytree_dataclass
class LinearResidual:
    matrix: Any
    y: Any

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.matrix @ x - self.y


def make_linear_problem(mode: str, seed: int = 0) -> tuple[ControlProblem, jax.Array]:
    """Return a problem and its initial state; `mode` input, output or general.

    General dynamics have a random control matrix that is not square.
    """
    random = np.random.default_rng(seed)
    matrix = np.eye(DIM) + 0.4 * random.normal(size=(STEPS, DIM, DIM)) / np.sqrt(DIM)
    control_matrix = {
        "input": matrix,
        "output": np.broadcast_to(np.eye(DIM), matrix.shape),
        "general": random.normal(size=(STEPS, DIM, 5)),
    }[mode]
    problem = ControlProblem(
        dynamics=AffineStep(
            matrix=matrix,
            control_matrix=control_matrix,
            offset=0.1 * random.normal(size=(STEPS, DIM)),
        ),
        running_cost=ControlEnergy(weight=random.uniform(0.3, 1.5, STEPS)),
        terminal_cost=ComposedCost(
            map=LinearResidual(
                matrix=random.normal(size=(MEASURED, DIM)),
                y=random.normal(size=MEASURED),
            ),
            loss=GaussianLoss(std=np.asarray(STD)),
        ),
    )
    x_init = jnp.asarray(random.normal(size=DIM))
    return jax.tree.map(jnp.asarray, problem), x_init


def random_controls(problem: ControlProblem, seed: int = 7) -> jax.Array:
    num_steps, _, size = problem.dynamics.control_matrix.shape
    return jnp.asarray(np.random.default_rng(seed).normal(size=(num_steps, size)))


def closed_form(problem: ControlProblem, x_init: jax.Array) -> np.ndarray:
    """Return the optimal controls by the formula at the head of this file."""
    dynamics, weight = problem.dynamics, np.asarray(problem.running_cost.weight)
    product, reach = np.eye(DIM), []
    free = np.asarray(x_init)
    for matrix, offset in zip(dynamics.matrix, dynamics.offset, strict=True):
        free = np.asarray(matrix) @ free + np.asarray(offset)
    steps = zip(dynamics.matrix, dynamics.control_matrix, strict=True)
    for matrix, control in reversed(list(steps)):
        reach.insert(0, product @ np.asarray(control))
        product = product @ np.asarray(matrix)
    gramian = sum(b @ b.T / w for b, w in zip(reach, weight, strict=True))
    cost = problem.terminal_cost
    a, y = np.asarray(cost.map.matrix), np.asarray(cost.map.y)
    inside = STD**2 * np.eye(y.size) + a @ gramian @ a.T
    pull = a.T @ np.linalg.solve(inside, y - a @ free)
    return np.stack([b.T @ pull / w for b, w in zip(reach, weight, strict=True)])
