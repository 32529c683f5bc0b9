"""How the damping enters the value function: three updates, each a strategy.

With Q_uu the undamped control Hessian and k, K computed from Q_uu + damping * I, the
corrections V_x - Q_x and V_xx - Q_xx are combinations of three terms,

    quadratic = K^T Q_uu k,   linear = K^T Q_u,   cross = Q_ux^T k       (for V_x)
    quadratic = K^T Q_uu K,   linear = K^T Q_ux,  cross = Q_ux^T K       (for V_xx).

For the factored recursion V'_xx = F F^T, Y = f_x^T F, W = f_u^T F, Q_uu = w I + W W^T,
a = w + damping, S = (a I + W^T W)^{-1}, each of them collapses to three scalars:

    V_x = Q_x - Y (S + c1 S^2) W^T Q_u,        V_xx = Y (c2 S + c3 S^2) Y^T,

                             c1           c2               c3
    proximal                 0            a                0
    Levenberg-Marquardt      damping      w                a * damping
    inconsistent            -damping      w + 2 damping   -a * damping

so V_xx stays positive semi-definite in all three (the eigenvalues of a S are <= 1).
"""

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diffctl.pytree import pytree_dataclass


class ReducedUpdate(NamedTuple):
    """The scalars c1, c2, c3 of the factored value update."""

    gradient: jax.Array | float  # c1
    hessian: jax.Array | float  # c2
    hessian_squared: jax.Array | float  # c3


class ValueUpdate(abc.ABC):
    """A way to carry a damped step into the value function."""

    @abc.abstractmethod
    def correction(
        self, quadratic: jax.Array, linear: jax.Array, cross: jax.Array
    ) -> jax.Array:
        """Return V - Q from the three terms, all of one shape."""

    @abc.abstractmethod
    def reduced(self, weight: jax.Array, damping: jax.Array) -> ReducedUpdate:
        """Return (c1, c2, c3) of a step with control weight w and this damping."""


@pytree_dataclass
class Proximal(ValueUpdate):
    """The damping is a running cost 0.5 * damping * |u - u_old|^2 of this iteration.

    The recommended form; its fixed points are those of the undamped problem.
    """

    def correction(
        self, quadratic: jax.Array, linear: jax.Array, cross: jax.Array
    ) -> jax.Array:
        return linear

    def reduced(self, weight: jax.Array, damping: jax.Array) -> ReducedUpdate:
        return ReducedUpdate(0.0, weight + damping, 0.0)


@pytree_dataclass
class LevenbergMarquardt(ValueUpdate):
    """The true value, in the undamped quadratic model, of the damped policy."""

    def correction(
        self, quadratic: jax.Array, linear: jax.Array, cross: jax.Array
    ) -> jax.Array:
        return quadratic + linear + cross

    def reduced(self, weight: jax.Array, damping: jax.Array) -> ReducedUpdate:
        return ReducedUpdate(damping, weight, (weight + damping) * damping)


@pytree_dataclass
class Inconsistent(ValueUpdate):
    """The short formulas of the undamped case with the damped gains.

    Kept for comparison with Li and Pereira, "Solving Inverse Problems via Diffusion
    Optimal Control", which prints it. It is the value of no policy unless damping = 0.
    """

    def correction(
        self, quadratic: jax.Array, linear: jax.Array, cross: jax.Array
    ) -> jax.Array:
        return -quadratic

    def reduced(self, weight: jax.Array, damping: jax.Array) -> ReducedUpdate:
        squared = -(weight + damping) * damping
        return ReducedUpdate(-damping, weight + 2 * damping, squared)


def identity_like(matrix: jax.Array) -> jax.Array:
    """Return the identity of the size and dtype of a square matrix."""
    return jnp.eye(matrix.shape[0], dtype=matrix.dtype)
