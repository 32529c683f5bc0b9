"""Blocks that the U-Nets share: residual blocks, attention, resampling.

Every published U-Net here is made of the same few blocks. They differ in the groups and
epsilon of the norms, in how the noise level enters, in the gain of a residual sum and
in how a block resamples; those differences are data (`BlockStyle`, functions).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffctl.host import Count, Natural, Positive
from diffctl.nets.layers import Conv, GroupNorm, Linear, upsample_nearest

Resample = Callable[[jax.Array], jax.Array]

MOST_SCORES = 1 << 28  # of one attention layer at a time: 1 GiB in float32


class FiLM(Linear):
    """The noise level scales and shifts after the norm: norm(h) (1 + scale) + shift."""

    def __init__(self, embedding: int, channels: int, *, rngs: nnx.Rngs):
        super().__init__(embedding, 2 * channels, gain=0.0, rngs=rngs)

    def condition(self, norm: GroupNorm, h: jax.Array, embedding: Any) -> jax.Array:
        """Normalise `h` (H, W, C) under the condition of `embedding` (E,)."""
        scale, shift = jnp.split(self(embedding), 2)
        return norm(h) * (1 + scale[None, None]) + shift[None, None]


class Additive(Linear):
    """The noise level adds a constant per channel before the norm: norm(h + term)."""

    def __init__(self, embedding: int, channels: int, *, rngs: nnx.Rngs):
        super().__init__(embedding, channels, rngs=rngs)

    def condition(self, norm: GroupNorm, h: jax.Array, embedding: Any) -> jax.Array:
        """Normalise `h` (H, W, C) under the condition of `embedding` (E,)."""
        return norm(h + self(embedding)[None, None])


Modulation = Literal["film", "additive"]
MODULATIONS: dict[str, type[FiLM] | type[Additive]] = {
    "film": FiLM,
    "additive": Additive,
}


@dataclasses.dataclass(frozen=True)
class BlockStyle:
    """What the residual blocks and norms of one network have in common.

    With `group_width` > 0 a norm has at most channels / group_width groups.
    """

    groups: Count
    epsilon: Positive = 1e-5
    group_width: Natural = 0
    modulation: Modulation | None = "film"  # of MODULATIONS; None: no noise level
    gain: float = 1.0  # of every residual sum
    project_resampled: bool = False  # 1x1 skip in resampling blocks of equal width
    normed_attention: bool = True

    def norm(self, channels: int) -> GroupNorm:
        """Make the norm for a number of channels."""
        most = channels // self.group_width if self.group_width else self.groups
        groups = min(self.groups, most)
        return GroupNorm(channels, groups=groups, epsilon=self.epsilon)

    def attention(self, channels: int, heads: int, rngs: nnx.Rngs) -> "Attention":
        """Make self-attention with this style's norm and gain."""
        norm = self.norm(channels) if self.normed_attention else None
        return Attention(channels, heads=heads, norm=norm, gain=self.gain, rngs=rngs)


class ResBlock(nnx.Module):
    """Residual block whose second norm depends on the noise level.

    x -> gain * (skip(r(x)) + conv2(silu(modulated_norm2(conv1(r(silu(norm1(x))))))))

    with r the resampling, if any.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        style: BlockStyle,
        embedding: int = 0,
        resample: Resample | None = None,
        rngs: nnx.Rngs,
    ):
        """Start as the identity (or the 1x1 skip): the last convolution is zero."""
        self.norm1 = style.norm(channels_in)
        self.conv1 = Conv(channels_in, channels_out, rngs=rngs)
        self.modulation = (
            MODULATIONS[style.modulation](embedding, channels_out, rngs=rngs)
            if style.modulation
            else None
        )
        self.norm2 = style.norm(channels_out)
        self.conv2 = Conv(channels_out, channels_out, gain=0.0, rngs=rngs)
        forced = resample is not None and style.project_resampled
        straight = channels_in == channels_out and not forced
        self.skip = None if straight else Conv(channels_in, channels_out, 1, rngs=rngs)
        self.resample = resample
        self.gain = style.gain

    def __call__(self, x: jax.Array, embedding: Any = None) -> jax.Array:
        h = jax.nn.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        h = (
            self.norm2(h)
            if self.modulation is None
            else self.modulation.condition(self.norm2, h, embedding)
        )
        h = self.conv2(jax.nn.silu(h)) + (x if self.skip is None else self.skip(x))
        return h if self.gain == 1 else h * self.gain


class Attention(nnx.Module):
    """Residual self-attention over the pixels of one image: (H, W, C) -> (H, W, C).

    The channels of `qkv` are ordered ({q, k, v}, head, width). Other orders exist in
    checkpoints; they are rearranged at conversion, not here.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        norm: GroupNorm | None,
        gain: float = 1.0,
        rngs: nnx.Rngs,
    ):
        _check_heads(channels, heads)
        self.norm = norm
        self.qkv = Linear(channels, 3 * channels, rngs=rngs)
        self.out = Linear(channels, channels, gain=0.0, rngs=rngs)
        self.heads = heads
        self.gain = gain

    def __call__(self, x: jax.Array) -> jax.Array:
        normed = x if self.norm is None else self.norm(x)
        tokens = normed.reshape(-1, x.shape[-1])
        mixed = attend(*split_heads(self.qkv(tokens), self.heads))
        y = x + self.out(mixed.reshape(tokens.shape)).reshape(x.shape)
        return y if self.gain == 1 else y * self.gain


class AttentionPool(nnx.Module):
    """Attention from the mean of all pixels, with learned positions: (H, W, C) -> (D,).

    The mean is put in front of the pixels as one more token, positions are added, and
    the result is read at the mean's token.
    """

    def __init__(
        self,
        pixels: int,
        channels: int,
        features_out: int,
        *,
        heads: int,
        rngs: nnx.Rngs,
    ):
        _check_heads(channels, heads)
        self.positions = nnx.Param(jnp.zeros((pixels + 1, channels)))
        self.qkv = Linear(channels, 3 * channels, rngs=rngs)
        self.out = Linear(channels, features_out, rngs=rngs)
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        tokens = x.reshape(-1, x.shape[-1])
        tokens = jnp.concatenate([tokens.mean(axis=0, keepdims=True), tokens])
        tokens = tokens + self.positions[...].astype(x.dtype)
        query, key, value = split_heads(self.qkv(tokens), self.heads)
        return self.out(attend(query[:1], key, value).reshape(-1))


class Upsample(Conv):
    """Nearest-neighbour doubling, then a 3x3 convolution: (H, W, C) -> (2H, 2W, C)."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        super().__init__(channels, channels, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(upsample_nearest(x))


@dataclasses.dataclass(frozen=True)
class FilterDown:
    """Halve the resolution with a separable filter: (H, W, C) -> (H/2, W/2, C).

    `pad` zeros are put on every side first; (taps - 1) // 2 keeps the centre.
    """

    taps: tuple[float, ...]
    pad: int

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        weights = np.asarray(self.taps) / np.sum(self.taps)
        return _correlate(_correlate(x, weights, axis=0, stride=2), weights, 1, 2)


@dataclasses.dataclass(frozen=True)
class FilterUp:
    """Double the resolution with a separable filter: (H, W, C) -> (2H, 2W, C).

    The adjoint of `FilterDown` with centred padding, times 4.
    """

    taps: tuple[float, ...]

    def __call__(self, x: jax.Array) -> jax.Array:
        edge = len(self.taps) - 1 - (len(self.taps) - 1) // 2
        sides = (edge, edge, 1)  # a zero between neighbours
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), (sides, sides, (0, 0, 0)))
        weights = 2 * np.asarray(self.taps)[::-1] / np.sum(self.taps)
        return _correlate(_correlate(x, weights, axis=0, stride=1), weights, 1, 1)


def split_heads(qkv: jax.Array, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Split (N, 3 C) into query, key and value, each (N, heads, C / heads)."""
    split = qkv.reshape(len(qkv), 3, heads, -1)
    return split[:, 0], split[:, 1], split[:, 2]


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Return softmax(q k^T / sqrt(C)) v per head; q (M, heads, C), k and v (N, ...).

    Not `jax.nn.dot_product_attention`, which rounds the weights of a float64 input to
    float32. The softmax is computed in float32 or better. Beyond `MOST_SCORES` scores
    the queries are taken in turns, and the scores computed again for derivatives.
    """
    scores_per_query = key.shape[0] * key.shape[1]
    at_once = max(1, MOST_SCORES // scores_per_query)
    if len(query) <= at_once:
        return _attend(query, key, value)
    one = jax.checkpoint(lambda q: _attend(q[None], key, value)[0])
    return jax.lax.map(one, query, batch_size=at_once)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("qhc,khc->hqk", query, key, preferred_element_type=wide)
    weights = jax.nn.softmax(logits / math.sqrt(query.shape[-1]))
    return jnp.einsum("hqk,khc->qhc", weights.astype(value.dtype), value)


def _check_heads(channels: int, heads: int) -> None:
    if heads < 1 or channels % heads:
        raise ValueError(
            f"{channels} channels cannot be split into {heads} attention heads; "
            "choose a divisor of the channel count."
        )


def _correlate(x: jax.Array, weights: np.ndarray, axis: int, stride: int) -> jax.Array:
    """Correlate along one axis: y[i] = sum_k weights[k] x[i stride + k]."""
    count = (x.shape[axis] - len(weights)) // stride + 1
    stop = stride * (count - 1) + 1
    shifted = [
        weight * jax.lax.slice_in_dim(x, k, k + stop, stride, axis)
        for k, weight in enumerate(weights.tolist())
    ]
    return sum(shifted[1:], shifted[0])
