"""Iterative Latent Variable Refinement: the low-pass part follows the measurement.

With the low-pass filter L = up o A, made of the operator and an upsampling, and y_up a
full-size version of the measurement, after every reverse step x -> x' to level sigma'

    x <- x' + L(y_up + sigma' z) - L(x'),    y_up = up(y)
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from diffctl.operators.base import LinearOperator, Problem
from diffctl.pytree import pytree_dataclass, static
from diffctl.solvers.requirements import linear
from diffctl.solvers.score_sde import ReplacementSolver

Upsampling = Callable[[LinearOperator, Any], jax.Array]


def pseudo_inverse(operator: LinearOperator, y: Any) -> jax.Array:
    """Return A^+ y: L is the projector A^+ A."""
    return operator.pinv(y)


def cubic_upsampling(operator: LinearOperator, y: Any) -> jax.Array:
    """Return the image y (h, w, C) resized to the operator's signal, by cubics.

    For super-resolution; the pseudo-inverse of a blur is no resizing.
    """
    return jax.image.resize(y, operator.shape, "cubic")


def nearest_upsampling(operator: LinearOperator, y: Any) -> jax.Array:
    """Return the image y (h, w, C) with its pixels repeated to the operator's signal.

    A right inverse of block averages, and nearly one of other down-sampling.
    """
    return jax.image.resize(y, operator.shape, "nearest")


@pytree_dataclass
class ILVR(ReplacementSolver):
    """Iterative Latent Variable Refinement (Choi et al., ICCV 2021).

        x <- x' + L(y_up + sigma' z) - L(x'),    L = up o A,  y_up = up(y)

    With the pseudo-inverse as upsampling this is `ScoreSDE` with a hard projection.

    Requirements: a linear operator, meant for down-sampling (`Truncated` keeps the
    pseudo-inverse of others bounded); the noise model is not used.

    Cost: T forwards for T levels of `grid`; no derivative of the network.

    Args:
        grid: noise levels, T steps.
        reverse: one-call reverse step.
        stop_sigma: (), the refinement ends below this level; 0 refines to the end.
            Larger values keep less of the measurement and more of the prior.
        up: linear upsampling, `(operator, y) -> signal`.
    """

    checked: ClassVar[tuple[str, ...]] = ("up",)
    reference: ClassVar[str] = (
        "Choi et al., ILVR: Conditioning Method for Denoising Diffusion Probabilistic "
        "Models, ICCV 2021"
    )

    stop_sigma: Any = 0.0
    up: Upsampling = static(default=pseudo_inverse)

    def change(
        self, problem: Problem, x: jax.Array, sigma: jax.Array, noise: jax.Array
    ) -> jax.Array:
        operator = linear(problem)
        target = self.up(operator, problem.y) + sigma * noise
        change = self.up(operator, operator(target - x))
        return jnp.where(sigma >= self.stop_sigma, change, 0)
