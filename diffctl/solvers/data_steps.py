"""How far an image is from explaining a linear measurement, as a change of the image.

1. towards_data        A^+ (y - A x)
2. towards_noisy_data  A^T (A A^T + damping I)^{-1} (y - A x)
"""

import jax

from diffctl.operators.base import Problem
from diffctl.solvers.requirements import linear


def towards_data(problem: Problem, x: jax.Array) -> jax.Array:
    """Return (1), the least change that makes x explain the measurement, (*shape).

    Only singular values at rounding level count as zeros. Those that are merely small
    amplify the noise of y; `operators.Truncated` leaves them out.
    """
    return linear(problem).pinv(problem.residual(x))


def towards_noisy_data(
    problem: Problem, x: jax.Array, damping: jax.typing.ArrayLike
) -> jax.Array:
    """Return (2), which leads to the least |y - A x'|^2 + damping |x' - x|^2, (*shape).

    Through the singular system, or else by 100 conjugate gradients. It tends to
    `towards_data` as the damping, (), tends to 0.
    """
    return linear(problem).damped_pinv(problem.residual(x), damping)
