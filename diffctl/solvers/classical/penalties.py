"""What solvers share that hold an iterate near a regularised copy of it."""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.iterations import IterativeSolver


@pytree_dataclass
class PenaltySolver(IterativeSolver):
    """An iterative solver with a penalty for every iteration, the same for every key.

    The penalty is in the units of f(x) = |A x - y|^2 / (2 s_y^2); sources that write
    the data term without 1 / (2 s_y^2) quote the penalty times s_y^2. A step is handed
    its penalty and the next one. For a `DenoiserProx` of weight w, the denoiser's level
    is sqrt(w / penalty).

    Args:
        num_steps: iterations.
        penalty: of the first iteration, ().
        final_penalty: of the last one, the others in geometric progression; None keeps
            the first.
    """

    penalty: Any = 4.0
    final_penalty: Any = None

    def init(
        self, key: jax.Array, problem: Problem, prior: Any
    ) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        carry = self.start(key, problem, prior)
        dtype = jax.tree.leaves(carry)[0].dtype
        penalties = self.penalties(dtype)
        return carry, (penalties, jnp.append(penalties[1:], penalties[-1]))

    def penalties(self, dtype: Any) -> jax.Array:
        """Return the penalty of every iteration, (num_steps,)."""
        first = jnp.asarray(self.penalty, dtype)
        if self.final_penalty is None:
            return jnp.broadcast_to(first, (self.num_steps,))
        ratio = jnp.asarray(self.final_penalty, dtype) / first
        return first * ratio ** jnp.linspace(0, 1, self.num_steps, dtype=dtype)


def penalty_of_level(sigma: float) -> float:
    """Return the penalty at which a denoiser of unit weight is at level `sigma`."""
    return 1.0 / sigma**2
