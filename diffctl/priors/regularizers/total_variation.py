"""Total variation: sparse differences of neighbouring pixels.

    R(x) = weight sum |D x|,   D the forward differences, |.| over the axes of a group

1. prox by projected gradients on the dual, with momentum, x = y - D^T z:
   z' = project(v + D (y - D^T v) / |D|^2)   each group onto the ball of step weight
   v  = z' + momentum (z' - z),              dropped where it points uphill
"""

from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import ProximalPrior
from diffctl.numerics.momentum import is_uphill, momentum
from diffctl.numerics.shrinkage import group_norms, group_threshold
from diffctl.numerics.varying import varying_alike
from diffctl.priors.regularizers.checks import check_axes, check_weight
from diffctl.priors.regularizers.differences import differences, differences_adjoint
from diffctl.pytree import pytree_dataclass, static

_IMAGE_AXES = (0, 1)
# Of the stack of differences: along its first axis lie the directions.
_DIRECTIONS = 0
_CHANNELS = -1


@pytree_dataclass
class TotalVariation(ProximalPrior):
    """Total variation with the differences as K, so that solvers can split them off.

    exp(-R) with the anisotropic form is a Laplace law of the differences, not of the
    pixels; the solvers find its mode, which is not a typical sample.

    Args:
        weight: lambda in f(x) + lambda TV(x), f(x) = |A x - y|^2 / (2 s_y^2); sources
            without 1 / (2 s_y^2) quote lambda s_y^2.
        shape: of a signal.
        axes: along which differences are taken; the others are channels.
        group: axes of D x, (directions, *shape), over which the norm is taken: none
            (anisotropic), the directions (isotropic), directions and channels
            (vectorial).
        num_inner: iterations of `prox`, which only solvers that do not split D x need;
            they always start from zero, and the error falls as 1 / num_inner^2.
    """

    weight: Any
    shape: tuple[int, ...] = static()
    axes: tuple[int, ...] = static(default=_IMAGE_AXES)
    group: tuple[int, ...] = static(default=(_DIRECTIONS,))
    num_inner: int = static(default=100)

    @classmethod
    def isotropic(
        cls, shape: tuple[int, ...], weight: Any, axes: tuple[int, ...] = _IMAGE_AXES
    ) -> "TotalVariation":
        """Return the sum of the lengths of the gradients, channel by channel.

        Raises:
            ValueError: a weight that is not positive, or axes that are not those of
                `shape`.
        """
        check_weight(weight)
        check_axes(shape, axes)
        return cls(weight=weight, shape=shape, axes=axes)

    @classmethod
    def anisotropic(
        cls, shape: tuple[int, ...], weight: Any, axes: tuple[int, ...] = _IMAGE_AXES
    ) -> "TotalVariation":
        """Return the sum of the absolute differences; errors as `isotropic`."""
        check_weight(weight)
        check_axes(shape, axes)
        return cls(weight=weight, shape=shape, axes=axes, group=())

    @classmethod
    def vectorial(cls, shape: tuple[int, ...], weight: Any) -> "TotalVariation":
        """Return the form for images whose channels share edges; errors as above."""
        check_weight(weight)
        check_axes(shape, _IMAGE_AXES)
        return cls(weight=weight, shape=shape, group=(_DIRECTIONS, _CHANNELS))

    def energy(self, x: jax.Array) -> jax.Array:
        """Return R(x), ()."""
        return self.weight * jnp.sum(group_norms(self.analysis(x), self.group))

    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        radius = self.weight * step

        def iterate(state: Any, _: None) -> tuple[Any, None]:
            z, ahead, t = state
            signal = x - self.analysis_adjoint(ahead)
            moved = ahead + self.analysis(signal) / self.analysis_norm() ** 2
            new = moved - group_threshold(moved, radius, self.group)
            t = jnp.where(is_uphill(ahead, new, z), 1, t)
            weight, t = momentum(t)
            return (new, new + weight * (new - z), t), None

        z = jnp.zeros_like(self.analysis(x))
        start: Any = (z, z, jnp.ones((), x.dtype))
        start, _ = varying_alike((start, x))
        (z, *_), _ = jax.lax.scan(iterate, start, None, length=self.num_inner)
        return x - self.analysis_adjoint(z)

    def analysis(self, x: jax.Array) -> jax.Array:
        return differences(x, self.axes)

    def analysis_adjoint(self, z: jax.Array) -> jax.Array:
        return differences_adjoint(z, self.axes)

    def analysis_prox(self, z: jax.Array, step: jax.Array) -> jax.Array:
        return group_threshold(z, step * self.weight, self.group)

    def analysis_norm(self) -> float:
        return 2.0 * len(self.axes) ** 0.5
