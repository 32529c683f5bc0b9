"""First-order descent with any optax optimiser, as a pytree."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class Descent:
    """An optax optimiser whose hyper-parameters are leaves.

    `optimizer` is a constructor such as `optax.adam`, and `hyperparams` its keyword
    arguments, so that one compiled program serves a sweep over them.

    Gradients are divided by `unit` first. Adam follows any unit of the loss until its
    epsilon (1e-8) or, in float32, the squares of the gradients come into play: set the
    size of a typical gradient for a loss on raw data, |y - A x|^2 of a y of 1e-5.
    """

    optimizer: Callable[..., optax.GradientTransformation] = static()
    hyperparams: Any  # dict[str, scalar]
    unit: Any = 1.0  # () of the gradient

    @classmethod
    def adam(cls, step_size: Any, *, b2: Any = 0.999) -> "Descent":
        """Return Adam, with a root that can be differentiated at gradient 0."""
        fields = {"learning_rate": step_size, "b2": b2, "eps_root": 1e-16}
        return cls(optimizer=optax.adam, hyperparams=fields)

    @classmethod
    def gradient(cls, step_size: Any, *, momentum: Any = 0.0) -> "Descent":
        """Return gradient descent with heavy-ball momentum."""
        fields = {"learning_rate": step_size, "momentum": momentum}
        return cls(optimizer=optax.sgd, hyperparams=fields)

    def init(self, x: Any) -> Any:
        """Return the first state for unknowns `x`, a pytree."""
        return self._transformation().init(x)

    def update(self, gradient: Any, state: Any, x: Any) -> tuple[Any, Any]:
        """Return the unknowns after one step, and the state."""
        scaled = jax.tree.map(lambda g: g / jnp.asarray(self.unit, g.dtype), gradient)
        updates, state = self._transformation().update(scaled, state, x)
        moved = jax.tree.map(lambda u, step: u + step.astype(u.dtype), x, updates)
        return moved, state

    def _transformation(self) -> optax.GradientTransformation:
        return self.optimizer(**self.hyperparams)
