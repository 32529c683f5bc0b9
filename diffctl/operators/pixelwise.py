"""Operators that keep or drop single pixels."""

import math

import jax
import jax.numpy as jnp

from diffctl.numerics.concrete import any_concrete
from diffctl.numerics.counts import part_of
from diffctl.operators.base import SpectralOperator
from diffctl.operators.checks import require, require_image_shape
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class Identity(SpectralOperator):
    """y = x: denoising. `shape` is any shape; all singular values are 1."""

    shape: tuple[int, ...] = static()

    @property
    def bound(self) -> float:
        return 1.0

    @property
    def singular_values(self) -> jax.Array:
        return jnp.ones(self.shape).ravel()

    def __call__(self, x: jax.Array) -> jax.Array:
        return x

    def v(self, z: jax.Array) -> jax.Array:
        return z.reshape(self.shape)

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        return x.ravel()

    def u(self, z: jax.Array) -> jax.Array:
        return z.reshape(self.shape)

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        return y.ravel()


@pytree_dataclass
class Mask(SpectralOperator):
    """y = mask * x: inpainting.

    The measurement keeps the shape of the image, with zeros where `mask` is 0, so that
    it can be looked at, and so that masks of different sizes batch under `vmap`.
    Unobserved entries are no data: `simulate` and `restrict` set them to zero, which
    makes them drop out of the residual. Leave `restrict` out to reproduce codes whose
    residual contains noise on unobserved pixels (see `simulate`).

    Singular values are the entries of the mask; U = V = identity.
    """

    mask: jax.Array  # (*shape), 1 observed, 0 not
    shape: tuple[int, ...] = static()

    @classmethod
    def from_array(cls, mask: jax.Array, shape: tuple[int, ...]) -> "Mask":
        """Keep the entries where `mask` is true.

        Args:
            mask: boolean or 0/1, (*shape), or (H, W) or (H, W, 1) for all channels.
            shape: of the signal; any shape if `mask` has it, else (H, W, C).
        """
        given, mask = mask, jnp.asarray(mask)
        if mask.shape == shape[:-1]:
            mask = mask[..., None]
        require(
            mask.shape in (shape, (*shape[:-1], 1)),
            f"mask has shape {mask.shape}; expected {shape}, or {shape[:-1]} for a "
            "mask shared by the channels. Signals are (height, width, channels).",
        )
        require(
            not any_concrete(lambda entries: (entries != 0) & (entries != 1), given),
            "mask has entries other than 0 and 1; expected 1 for observed pixels and 0 "
            "for the others. Threshold it first, e.g. `mask > 0.5`.",
        )
        observed = jnp.broadcast_to(mask, shape)
        return cls(mask=jnp.where(observed, 1.0, 0.0), shape=shape)

    @classmethod
    def from_bbox(
        cls,
        shape: tuple[int, int, int],
        *,
        top: int,
        left: int,
        size: int | tuple[int, int],
    ) -> "Mask":
        """Hide a box of `size` (pixels, or height and width) with its corner given."""
        require_image_shape(shape)
        height, width = (size, size) if isinstance(size, int) else size
        require(
            0 <= top < top + height <= shape[0]
            and 0 <= left < left + width <= shape[1],
            f"the box of {height}x{width} pixels at top={top}, left={left} is not "
            f"inside an image of {shape[0]}x{shape[1]}. Move or shrink it.",
        )
        return cls.from_array(_outside_box(shape, top, left, height, width), shape)

    @classmethod
    def random_bbox(
        cls, key: jax.Array, shape: tuple[int, int, int], *, size: int, margin: int = 0
    ) -> "Mask":
        """Hide a square of `size` pixels, placed uniformly inside the `margin`."""
        require_image_shape(shape)
        room = [n - size - 2 * margin for n in shape[:2]]
        require(
            size > 0 and margin >= 0 and min(room) >= 0,
            f"a square of size={size} with margin={margin} does not fit into an image "
            f"of {shape[0]}x{shape[1]}. Make size or margin smaller.",
        )
        top, left = margin + jax.random.randint(key, (2,), 0, jnp.array(room) + 1)
        return cls.from_array(_outside_box(shape, top, left, size, size), shape)

    @classmethod
    def random(
        cls, key: jax.Array, shape: tuple[int, int, int], *, drop_fraction: float
    ) -> "Mask":
        """Hide floor(H W drop_fraction) pixels, drawn without replacement.

        A pixel is dropped in all its channels. The product is that of the fraction
        which the number stands for: 0.29 of 100 pixels are 29.
        """
        require_image_shape(shape)
        require(
            0 <= drop_fraction < 1,
            f"drop_fraction is {drop_fraction}; expected 0 <= drop_fraction < 1, the "
            "share of hidden pixels (0.92, not 92).",
        )
        num_pixels = shape[0] * shape[1]
        rank = jax.random.permutation(key, num_pixels).reshape(shape[:2])
        # A number that stands for 1 hides all pixels but one, as it is less than 1.
        hidden = min(math.floor(part_of(num_pixels, drop_fraction)), num_pixels - 1)
        return cls.from_array(rank >= hidden, shape)

    @classmethod
    def half(cls, shape: tuple[int, int, int]) -> "Mask":
        """Hide the right half (of an odd width, the smaller part)."""
        require_image_shape(shape)
        seen = jnp.arange(shape[1]) < (shape[1] + 1) // 2
        return cls.from_array(jnp.broadcast_to(seen[None, :], shape[:2]), shape)

    @property
    def bound(self) -> float:
        return 1.0

    @property
    def singular_values(self) -> jax.Array:
        return self.mask.ravel()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.mask.astype(x.dtype) * x

    def restrict(self, y: jax.Array) -> jax.Array:
        # A selection, not a product: unobserved entries may hold NaN in users' data.
        return jnp.where(self.mask > 0, y, 0)

    def num_observed(self) -> jax.Array:
        return jnp.sum(self.mask)

    def v(self, z: jax.Array) -> jax.Array:
        return z.reshape(self.shape)

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        return x.ravel()

    def u(self, z: jax.Array) -> jax.Array:
        return z.reshape(self.shape)

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        return y.ravel()


def _outside_box(
    shape: tuple[int, ...],
    top: int | jax.Array,
    left: int | jax.Array,
    height: int,
    width: int,
) -> jax.Array:
    rows, cols = jnp.arange(shape[0]), jnp.arange(shape[1])
    in_rows = (rows >= top) & (rows < top + height)
    in_cols = (cols >= left) & (cols < left + width)
    return ~(in_rows[:, None] & in_cols[None, :])
