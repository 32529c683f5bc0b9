"""First-order descent with any optax optimiser, as a pytree."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class Descent:
    """An optax optimiser whose hyper-parameters are leaves.

    `optimizer` is a constructor such as `optax.adam`, and `hyperparams` its keyword
    arguments, so that one compiled program serves a sweep over them.
    """

    optimizer: Callable[..., optax.GradientTransformation] = static()
    hyperparams: Any  # dict[str, scalar]

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
        updates, state = self._transformation().update(gradient, state, x)
        moved = jax.tree.map(lambda u, step: u + step.astype(u.dtype), x, updates)
        return moved, state

    def _transformation(self) -> optax.GradientTransformation:
        return self.optimizer(**self.hyperparams)
