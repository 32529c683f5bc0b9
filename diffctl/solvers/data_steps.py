"""How far an image is from explaining a linear measurement, as a change of the image.

1. towards_data        A^+ (y - A x)
2. towards_noisy_data  A^T (A A^T + damping I)^{-1} (y - A x)
"""

from typing import Any

import jax

from diffctl.operators.base import Problem, SpectralOperator
from diffctl.solvers.requirements import linear

# Below this share of the largest, the released operators of blur count singular values
# as zeros.
RELEASED_CUTOFF = 0.03


def towards_data(problem: Problem, x: jax.Array, *, cutoff: Any = 0.0) -> jax.Array:
    """Return (1), the least change that makes x explain the measurement, (*shape).

    Only singular values at rounding level count as zeros, and those that
    `pinv_without` leaves out. Small ones amplify the noise of y; `operators.Truncated`
    is the operator without them.
    """
    return pinv_without(problem, problem.residual(x), cutoff)


def pinv_without(problem: Problem, y: Any, cutoff: Any) -> jax.Array:
    """Return A^+ y without the singular values up to `cutoff` times the largest.

    An operator without singular system has its own A^+.
    """
    operator = linear(problem)
    if isinstance(operator, SpectralOperator):
        return operator.pinv(y, cutoff=cutoff)
    return operator.pinv(y)


def towards_noisy_data(
    problem: Problem, x: jax.Array, damping: jax.typing.ArrayLike
) -> jax.Array:
    """Return (2), which leads to the least |y - A x'|^2 + damping |x' - x|^2, (*shape).

    Through the singular system, or else by 100 conjugate gradients. It tends to
    `towards_data` as the damping, (), tends to 0.
    """
    return linear(problem).damped_pinv(problem.residual(x), damping)
