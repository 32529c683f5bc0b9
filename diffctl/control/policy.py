"""What a backward pass returns: an affine policy around the nominal trajectory.

    u_i = u_i^old + step_size * k_i + K_i (x_i - x_i^old),   new minus old state.

The names in code: feedforward (k), feedback (K), value_grad (V_x), value_hess (V_xx).
"""

import abc
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from diffctl.core import Calls
from diffctl.pytree import pytree_dataclass

HIGHEST = lax.Precision.HIGHEST


class Gains(abc.ABC):
    """Gains of all steps, leaves (T, ...), or of one step as a scan slices them."""

    feedforward: jax.Array  # (T, *control_shape)

    @abc.abstractmethod
    def feedback_control(self, dx: jax.Array) -> jax.Array:
        """Return K dx for the gains of one step; `dx` (*shape) -> (*control_shape)."""


@pytree_dataclass
class FirstOrderGains(Gains):
    """A feedforward term without feedback."""

    feedforward: jax.Array  # (T, *control_shape)

    def feedback_control(self, dx: jax.Array) -> jax.Array:
        return jnp.zeros_like(self.feedforward)


@pytree_dataclass
class DenseGains(Gains):
    """The feedback as a matrix on flattened states and controls."""

    feedforward: jax.Array  # (T, *control_shape)
    feedback: jax.Array  # (T, control_size, state_size)

    def feedback_control(self, dx: jax.Array) -> jax.Array:
        flat = jnp.matmul(self.feedback, dx.reshape(-1), precision=HIGHEST)
        return flat.reshape(self.feedforward.shape)


@pytree_dataclass
class LowRankGains(Gains):
    """The feedback K = - W S Y^T in factors; it is never formed."""

    feedforward: jax.Array  # (T, *control_shape)
    control_factors: jax.Array  # W^T (T, r, *control_shape)
    core: jax.Array  # S (T, r, r)
    state_factors: jax.Array  # Y^T (T, r, *shape)

    def feedback_control(self, dx: jax.Array) -> jax.Array:
        rank = self.core.shape[0]
        state_rows = self.state_factors.reshape(rank, dx.size)
        control_rows = self.control_factors.reshape(rank, self.feedforward.size)
        reduced = jnp.matmul(state_rows, dx.reshape(-1), precision=HIGHEST)
        reduced = jnp.matmul(self.core, reduced, precision=HIGHEST)
        flat = -jnp.matmul(reduced, control_rows, precision=HIGHEST)
        return flat.reshape(self.feedforward.shape)

    def dense_feedback(self) -> jax.Array:
        """Return K as matrices (T, control_size, state_size), for small problems."""
        num_steps, rank = self.core.shape[:2]
        state_size = math.prod(self.state_factors.shape[2:])
        control_size = math.prod(self.control_factors.shape[2:])
        state_rows = self.state_factors.reshape(num_steps, rank, state_size)
        control_rows = self.control_factors.reshape(num_steps, rank, control_size)
        return -jnp.einsum(
            "tru,trs,tsx->tux", control_rows, self.core, state_rows, precision=HIGHEST
        )


@pytree_dataclass
class Policy:
    """The result of a backward pass."""

    gains: Gains
    slope: jax.Array  # (T,) k_i . Q_u,i; the sum predicts dJ/d(step_size) at 0
    value_grad: jax.Array  # (T+1, *shape)
    calls: Calls
    # V_xx: (T+1, n, n) dense; (T+1, r, *shape) as the rows F of F^T F; None if zero
    value_hess: Any = None
