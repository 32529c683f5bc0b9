"""Least-squares fits of a measurement that stop before they fit its noise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.descent import Descent
from diffctl.numerics.safe import squared_norm
from diffctl.numerics.varying import varying_alike
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.costs import averaging_count, mean_squared_residual
from diffctl.solvers.requirements import noise_std

Threshold = Callable[[Problem], Any]


def noise_level(problem: Problem) -> Any:
    """Return sigma_y^2, the mean squared residual that the truth has."""
    return noise_std(problem) ** 2


def released_threshold(problem: Problem) -> Any:
    """Return 1e-6 as in the released code: the noise is fitted.

    For measurements in the unit of an image.
    """
    return 1e-6


@pytree_dataclass
class Fit:
    """A least-squares fit of the measurement by a fixed number of descent steps.

    Args:
        descent: the optimiser. Its gradients are in units of y squared: see there.
        num_steps: descent steps, all of them always computed.
        threshold: `problem -> ()`; the iterate is frozen once its mean squared residual
            is not above.
        anchor: (), weight of |x - start|^2 beside |y - A(x)|^2.
    """

    descent: Descent
    num_steps: int = static()
    threshold: Threshold = static(default=noise_level)
    anchor: Any = 0.0

    def __call__(self, problem: Problem, start: jax.Array) -> jax.Array:
        """Return a point near `start` that explains the measurement."""
        misfit = mean_squared_residual(problem)
        anchor = self.anchor / averaging_count(problem)
        enough = self.threshold(problem)

        def loss(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            value = misfit(x)
            return value + anchor * squared_norm(x - start), value

        def body(state: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
            x, memory = state
            (_, value), gradient = jax.value_and_grad(loss, has_aux=True)(x)
            moved = self.descent.update(gradient, memory, x)
            going_on = value > enough
            kept = jax.tree.map(lambda a, b: jnp.where(going_on, a, b), moved, state)
            return kept, None

        state = varying_alike((start, self.descent.init(start)))
        (x, _), _ = jax.lax.scan(body, state, None, length=self.num_steps)
        return x
