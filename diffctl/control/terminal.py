"""Terminal costs l(A(x)) and factors of their Gauss-Newton Hessian.

    V_xx at the end ~ J_A^T l'' J_A = F F^T,    F = J_A^T L,    L L^T = l''.

Factors are stored as rows, F^T (r, *shape). Only A is differentiated here, never the
dynamics: none of this costs a network call unless A contains a network.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.control.losses import OuterLoss
from diffctl.control.policy import HIGHEST
from diffctl.control.problem import TerminalCost
from diffctl.numerics import chunked_vmap, randomized_svd
from diffctl.numerics.vectors import to_vector
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class ComposedCost:
    """The terminal cost `loss(map(x))`.

    `map` is any differentiable function of the state, such as the residual A(x) - y or
    the logits of a classifier; it may return a pytree, real or complex, which enters
    the loss as one real vector (real parts before imaginary parts).
    """

    map: Any  # (*shape) -> pytree of arrays
    loss: OuterLoss

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the cost, a scalar; `x` (*shape)."""
        return self.loss(self.vector(x))

    def vector(self, x: jax.Array) -> jax.Array:
        """Return map(x) as a real vector (m,)."""
        return to_vector(self.map(x))


class TerminalFactors(abc.ABC):
    """A way to factor the Gauss-Newton Hessian of a `ComposedCost`."""

    @abc.abstractmethod
    def __call__(self, cost: TerminalCost, x: jax.Array, key: jax.Array) -> jax.Array:
        """Return the rows F^T (r, *shape) at the state `x` (*shape)."""


@pytree_dataclass
class NoFactors(TerminalFactors):
    """Rank zero: the first-order method. Any terminal cost."""

    def __call__(self, cost: TerminalCost, x: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.zeros((0, *x.shape), x.dtype)


@pytree_dataclass
class ExactFactors(TerminalFactors):
    """One factor per entry of map(x): r = m, by m VJPs of the map.

    Right for small m; the rank is then also the number of VJPs a step.
    """

    chunk_size: int | None = static(default=None)  # of the m VJPs; None: all at once

    def __call__(self, cost: TerminalCost, x: jax.Array, key: jax.Array) -> jax.Array:
        composed = _require_composed(cost)
        z, pullback = jax.vjp(composed.vector, x)

        def row(basis_vector: jax.Array) -> jax.Array:
            return pullback(composed.loss.hessian_root(z, basis_vector))[0]

        return chunked_vmap(row, self.chunk_size)(jnp.eye(z.size, dtype=z.dtype))


@pytree_dataclass
class RandomizedFactors(TerminalFactors):
    """The `rank` leading factors by a randomized SVD of L^T J_A.

    Uses JVPs and VJPs of the map only: (rank + oversampling) (1 + power iterations) of
    each. Exact, up to rounding, if the Hessian has at most `rank` non-zero eigenvalues.
    """

    rank: int = static()
    oversampling: int = static(default=5)
    num_power_iterations: int = static(default=1)
    chunk_size: int | None = static(default=None)

    def __call__(self, cost: TerminalCost, x: jax.Array, key: jax.Array) -> jax.Array:
        composed = _require_composed(cost)
        z = composed.vector(x)
        root_transposed = jax.linear_transpose(
            lambda w: composed.loss.hessian_root(z, w), z
        )
        factors = randomized_svd(
            lambda at: root_transposed(composed.vector(at))[0],
            x,
            key,
            rank=self.rank,
            oversampling=self.oversampling,
            num_power_iterations=self.num_power_iterations,
            probe_chunk=self.chunk_size,
        )
        rows = factors.singular_values[:, None] * factors.v.T
        return rows.astype(x.dtype).reshape(self.rank, *x.shape)


def gauss_newton_hessian(cost: TerminalCost, x: jax.Array) -> jax.Array:
    """Return the Gauss-Newton Hessian (n, n) of a `ComposedCost`, for the dense pass.

    Raises `TypeError` for another kind of cost.
    """
    rows = ExactFactors()(cost, x, jax.random.key(0)).reshape(-1, x.size)
    return jnp.matmul(rows.T, rows, precision=HIGHEST)


def _require_composed(cost: TerminalCost) -> ComposedCost:
    if not isinstance(cost, ComposedCost):
        raise TypeError(
            f"Gauss-Newton factors need a ComposedCost terminal cost; got "
            f"{type(cost).__name__}. Write it as ComposedCost(map=..., loss=...), or "
            f"use NoFactors, or DenseBackward with the exact Hessian."
        )
    return cost
