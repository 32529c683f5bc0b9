"""Outer losses of a terminal cost l(A(x)) with square roots of their Hessians.

A loss acts on a real vector z (m,): a residual or logits. `hessian_root` applies an L
with L L^T = l''(z), so the Gauss-Newton Hessian is F F^T with F = J_A^T L, positive
semi-definite by construction, and no eigenvalue has to be computed.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.control.policy import HIGHEST
from diffctl.numerics import safe_divide, safe_norm, safe_sqrt, squared_norm
from diffctl.pytree import pytree_dataclass


class OuterLoss(abc.ABC):
    """A convex function of a real vector."""

    @abc.abstractmethod
    def __call__(self, z: jax.Array) -> jax.Array:
        """Return l(z), a scalar; `z` (m,)."""

    @abc.abstractmethod
    def hessian_root(self, z: jax.Array, w: jax.Array) -> jax.Array:
        """Return L w, (m,), linear in `w` (m,), with L L^T = l''(z)."""


@pytree_dataclass
class GaussianLoss(OuterLoss):
    """|z|^2 / (2 std^2): the negative log-likelihood of a Gaussian residual."""

    std: Any  # (), positive

    def __call__(self, z: jax.Array) -> jax.Array:
        return 0.5 * squared_norm(z / self.std)

    def hessian_root(self, z: jax.Array, w: jax.Array) -> jax.Array:
        return w / self.std


@pytree_dataclass
class HalfSquareLoss(OuterLoss):
    """|z|^2 / 2."""

    def __call__(self, z: jax.Array) -> jax.Array:
        return 0.5 * squared_norm(z)

    def hessian_root(self, z: jax.Array, w: jax.Array) -> jax.Array:
        return w


@pytree_dataclass
class NormLoss(OuterLoss):
    """|z|, not squared; its gradient does not vanish at the solution.

    The terminal cost of Li and Pereira's experiments. l'' = (I - n n^T) / |z| with
    n = z / |z|, and the projector is its own square root. At z = 0, where there is no
    Hessian, it counts as 0. A weight or a damping beside |z| has the unit of z.
    """

    def __call__(self, z: jax.Array) -> jax.Array:
        return safe_norm(z)

    def hessian_root(self, z: jax.Array, w: jax.Array) -> jax.Array:
        length = safe_norm(z)
        unit = safe_divide(z, length)
        projected = w - unit * jnp.vdot(unit, w, precision=HIGHEST)
        return safe_divide(projected, safe_sqrt(length))


@pytree_dataclass
class ClassLoss(OuterLoss):
    """-log softmax(z)[label] of logits z.

    l'' = diag(p) - p p^T = L L^T with L = diag(s) (I - s s^T), s = sqrt(p).
    """

    label: Any  # () integer

    def __call__(self, z: jax.Array) -> jax.Array:
        return -jax.nn.log_softmax(z)[self.label]

    def hessian_root(self, z: jax.Array, w: jax.Array) -> jax.Array:
        s = jnp.exp(0.5 * jax.nn.log_softmax(z))
        return s * (w - s * jnp.vdot(s, w, precision=HIGHEST))
