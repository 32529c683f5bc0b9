"""Building blocks of the networks: Flax NNX modules for one example, channels last.

Modules hold `nnx.Param` only and are used as plain pytrees under `jax.*` transforms.
Parameters keep the dtype they have; a block computes in the dtype of its input, so a
bfloat16 input with cast parameters makes a bfloat16 network. Statistics of the norms
are always accumulated in float32 or better.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from diffctl.numerics.conv import Padding, conv2d


class Images(NamedTuple):
    """The images of a U-Net: channels in and out, and what divides height and width."""

    channels_in: int
    channels_out: int
    divisor: int


class Conv(nnx.Module):
    """Convolution with bias: (H, W, C) -> (H', W', D); see `numerics.conv.conv2d`."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int = 3,
        *,
        stride: int = 1,
        padding: Padding | int | None = None,
        gain: float = 1.0,
        rngs: nnx.Rngs,
    ):
        """Draw kernels of std gain / sqrt(fan-in); `padding=None` keeps the size."""
        shape = (size, size, channels_in, channels_out)
        self.kernel = nnx.Param(
            scaled_normal(rngs, shape, gain, fan_in=size**2 * channels_in)
        )
        self.bias = nnx.Param(jnp.zeros(channels_out))
        self.stride = stride
        self.padding = size // 2 if padding is None else padding

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        y = conv2d(x, kernel, stride=self.stride, padding=self.padding)
        return y + bias[None, None]


class Linear(nnx.Module):
    """Affine map of the last axis: (..., C) -> (..., D)."""

    def __init__(
        self, features_in: int, features_out: int, *, gain: float = 1.0, rngs: nnx.Rngs
    ):
        shape = (features_in, features_out)
        self.kernel = nnx.Param(scaled_normal(rngs, shape, gain, fan_in=features_in))
        self.bias = nnx.Param(jnp.zeros(features_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...].astype(x.dtype)
        return y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


class GroupNorm(nnx.Module):
    """Normalise groups of channels over space, then scale and shift: (H, W, C)."""

    def __init__(self, channels: int, *, groups: int, epsilon: float = 1e-5):
        if groups < 1 or channels % groups:
            raise ValueError(
                f"{channels} channels cannot be split into {groups} groups; "
                "choose a divisor of the channel count."
            )
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.groups = groups
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        # Two passes: the one-pass variance cancels badly on inputs with an offset.
        centred = wide - self._group_mean(wide)
        inverse_std = jax.lax.rsqrt(self._group_mean(centred**2) + self.epsilon)
        scale = self.scale[...].astype(wide.dtype)[None, None]
        bias = self.bias[...].astype(wide.dtype)[None, None]
        return (centred * inverse_std * scale + bias).astype(x.dtype)

    def _group_mean(self, x: jax.Array) -> jax.Array:
        # Space first: XLA:CPU reduces the leading axes five times faster than a mix.
        per_channel = jnp.mean(x, axis=(0, 1)).reshape(self.groups, -1)
        per_group = jnp.mean(per_channel, axis=1, keepdims=True)
        return jnp.broadcast_to(per_group, per_channel.shape).reshape(1, 1, -1)


def wide_float(value: ArrayLike) -> jax.Array:
    """Return a number in float32 or better: angles have no digits to spare."""
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


class FourierFeatures(nnx.Module):
    """Cosines and sines at geometrically spaced frequencies: () -> (2 count,).

    A single one is the lowest.
    """

    def __init__(self, count: int, *, lowest: float, highest: float):
        self.count = count
        self.lowest = lowest
        self.highest = highest

    def __call__(self, value: ArrayLike) -> jax.Array:
        value = wide_float(value)
        ratio = math.log(self.highest / self.lowest)
        steps = jnp.arange(self.count, dtype=value.dtype) / max(self.count - 1, 1)
        angles = value * self.lowest * jnp.exp(ratio * steps)
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """Move each b x b patch into the channels: (H, W, C) -> (H/b, W/b, C b^2)."""
    rows, columns, channels = x.shape
    x = x.reshape(rows // block, block, columns // block, block, channels)
    return x.transpose(0, 2, 1, 3, 4).reshape(rows // block, columns // block, -1)


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
    """Undo `space_to_depth`: (H, W, C b^2) -> (H b, W b, C)."""
    rows, columns, channels = x.shape
    x = x.reshape(rows, columns, block, block, channels // block**2)
    return x.transpose(0, 2, 1, 3, 4).reshape(rows * block, columns * block, -1)


def mean_pool(x: jax.Array) -> jax.Array:
    """Halve the resolution by averaging 2 x 2 pixels: (H, W, C) -> (H/2, W/2, C)."""
    rows, columns, channels = x.shape
    return x.reshape(rows // 2, 2, columns // 2, 2, channels).mean(axis=(1, 3))


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Double the resolution by repeating pixels: (H, W, C) -> (2 H, 2 W, C)."""
    rows, columns, channels = x.shape
    wide = jnp.broadcast_to(x[:, None, :, None], (rows, 2, columns, 2, channels))
    return wide.reshape(2 * rows, 2 * columns, channels)


def scaled_normal(
    rngs: nnx.Rngs, shape: tuple[int, ...], gain: float, fan_in: int
) -> jax.Array:
    """Draw parameters of standard deviation gain / sqrt(fan_in).

    Raises:
        ValueError: there are none to draw, which no layer is made for.
    """
    if min(shape) < 1:
        raise ValueError(
            f"a layer of the network has parameters of shape {shape}; expected widths, "
            "sizes and numbers of channels of at least 1."
        )
    return jax.random.normal(rngs.params(), shape) * (gain / math.sqrt(fan_in))
