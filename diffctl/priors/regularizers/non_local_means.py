"""Non-local means: every pixel is a mean over pixels with similar surroundings.

    x_i <- sum_j w_ij x_j / sum_j w_ij,   j in a window around i
    w_ij = exp(-max(|P_i - P_j|^2 / n_p - 2 n^2, 0) / h^2),   n_p entries of a patch P

One sum for each shift of the window: the patch distance of all pixels at once is a box
filter of squared differences.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.core import ProximalPrior
from diffctl.priors.regularizers.checks import check_image, check_weight
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class NonLocalMeans(ProximalPrior):
    """Non-local means (Buades et al., CVPR 2005), a denoiser used as a proximal map.

    `prox(x, step)` denoises at the level n = sqrt(weight * step). The image is
    continued by reflection, for patches and for the window. Costs window^2 passes over
    the image. Its weights depend on x and are normalised by rows, not symmetric: theory
    of RED applies to it at best approximately.

    Args:
        weight: variance of the noise for a unit step, > 0.
        bandwidth: h / n, 0.4 to 0.8.
        shape: (height, width, channels); channels share their weights.
        patch: side of a patch, odd, 5 to 7.
        window: side of the window, odd, 13 to 21.
    """

    weight: Any
    bandwidth: Any = 0.6
    shape: tuple[int, ...] = static()
    patch: int = static(default=5)
    window: int = static(default=13)

    @classmethod
    def create(
        cls, shape: tuple[int, ...], weight: Any = 1.0, **settings: Any
    ) -> "NonLocalMeans":
        """Check the arguments; `settings` are the other fields.

        Raises:
            ValueError: a weight or bandwidth that is not positive, no image, or sizes
                that are even or do not fit into the image.
        """
        check_weight(weight)
        check_image(shape)
        made = cls(weight=weight, shape=shape, **settings)
        check_weight(made.bandwidth)
        reach = made.patch // 2 + made.window // 2
        odd = made.patch % 2 == made.window % 2 == 1
        if not odd or min(made.patch, made.window) < 1 or reach >= min(shape[:2]):
            raise ValueError(
                f"patch is {made.patch} and window {made.window}; expected odd sizes "
                f"whose halves together are below {min(shape[:2])}, the image's size."
            )
        return made

    def prox(self, x: jax.Array, step: jax.Array) -> jax.Array:
        variance = self.weight * step
        # For a step of 0 patches that agree keep their weight of 1, others lose it.
        width = jnp.maximum(self.bandwidth**2 * variance, jnp.finfo(x.dtype).tiny)
        reach = self.window // 2
        border = self.patch // 2
        outside = reach + border
        continued = jnp.pad(
            x, ((outside, outside), (outside, outside), (0, 0)), "reflect"
        )
        near = _shifted(continued, jnp.asarray([reach, reach]), x.shape, border)

        def add(sums: Any, shift: jax.Array) -> tuple[Any, None]:
            there = _shifted(continued, shift, x.shape, border)
            gap = _box_mean((near - there) ** 2, self.patch)
            excess = jnp.maximum(gap - 2 * variance, 0)
            weights = jnp.exp(-excess / width)[..., None]
            centre = there[border : border + x.shape[0], border : border + x.shape[1]]
            total, norm = sums
            return (total + weights * centre, norm + weights), None

        shifts = np.asarray(list(itertools.product(range(self.window), repeat=2)))
        start = jnp.zeros_like(x), jnp.zeros_like(x[..., :1])
        (total, norm), _ = jax.lax.scan(add, start, jnp.asarray(shifts, jnp.int32))
        return total / norm


def _shifted(
    continued: jax.Array, shift: jax.Array, shape: tuple[int, ...], border: int
) -> jax.Array:
    """Return the image from `shift` on, with a border for the patches."""
    size = (shape[0] + 2 * border, shape[1] + 2 * border, shape[2])
    corner = jnp.append(shift, jnp.zeros_like(shift[0]))
    return jax.lax.dynamic_slice(continued, corner, size)


def _box_mean(squares: jax.Array, patch: int) -> jax.Array:
    """Return means over patches and channels, (H, W), of (H + patch - 1, ..., C)."""
    summed = jnp.sum(squares, axis=-1)
    box = jax.lax.reduce_window(
        summed, 0.0, jax.lax.add, (patch, patch), (1, 1), "VALID"
    )
    return box / (patch**2 * squares.shape[-1])
