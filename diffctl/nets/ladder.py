"""Levels of residual blocks with optional attention and a resampling at the end.

The ladder on which the DDPM U-Net and the KL autoencoder climb down and up.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from diffctl.host import Count, Natural
from diffctl.nets.blocks import BlockStyle, ResBlock, Upsample
from diffctl.nets.layers import Conv, mean_pool, upsample_nearest

Resampling = Literal["convolution", "corner", "residual"]


@dataclasses.dataclass(frozen=True)
class LevelSpec:
    """Feature channels, residual blocks, attention heads (0: none), resampling.

    `resample` is None, or a key of `DOWN` on the way down and of `UP` on the way up.
    """

    width: Count
    blocks: Count
    heads: Natural = 0
    resample: Resampling | None = None


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the modules of one network."""

    style: BlockStyle
    embedding: int  # 0: without noise level
    rngs: nnx.Rngs

    def block(self, start: int, width: int, **options: Any) -> ResBlock:
        """Make a residual block."""
        return ResBlock(
            start,
            width,
            style=self.style,
            embedding=self.embedding,
            rngs=self.rngs,
            **options,
        )

    def attention(self, width: int, heads: int) -> Any:
        """Make self-attention."""
        return self.style.attention(width, heads, self.rngs)


def _strided(make: Maker, width: int, padding: Any) -> Conv:
    return Conv(width, width, stride=2, padding=padding, rngs=make.rngs)


# "corner" pads below and on the right only.
DOWN = {
    "convolution": lambda make, width: _strided(make, width, 1),
    "corner": lambda make, width: _strided(make, width, ((0, 1), (0, 1))),
    "residual": lambda make, width: make.block(width, width, resample=mean_pool),
}
UP = {
    "convolution": lambda make, width: Upsample(width, rngs=make.rngs),
    "residual": lambda make, width: make.block(width, width, resample=upsample_nearest),
}


class Level(nnx.Module):
    """The blocks of one resolution, and the step to the next."""

    def __init__(
        self,
        make: Maker,
        starts: Sequence[int],
        spec: LevelSpec,
        resamplers: Mapping[str, Any],
    ):
        """Make a block for every one of `starts`, the channels that it is given."""
        self.blocks = nnx.List(make.block(start, spec.width) for start in starts)
        self.attentions = nnx.List(
            make.attention(spec.width, spec.heads) for _ in starts if spec.heads
        )
        self.resample = (
            resamplers[spec.resample](make, spec.width) if spec.resample else None
        )

    def down(
        self, h: jax.Array, embedding: jax.Array | None
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Return the result and every intermediate one, the result included."""
        stored = []
        for index in range(len(self.blocks)):
            h = self._step(index, h, embedding)
            stored.append(h)
        if self.resample is not None:
            h = _apply(self.resample, h, embedding)
            stored.append(h)
        return h, stored

    def up(
        self,
        h: jax.Array,
        embedding: jax.Array | None = None,
        stored: list[jax.Array] | None = None,
    ) -> jax.Array:
        """Return the result; each block takes (and removes) the last of `stored`."""
        for index in range(len(self.blocks)):
            if stored is not None:
                h = jnp.concatenate([h, stored.pop()], axis=-1)
            h = self._step(index, h, embedding)
        return h if self.resample is None else _apply(self.resample, h, embedding)

    def _step(self, index: int, h: jax.Array, embedding: jax.Array | None) -> jax.Array:
        h = self.blocks[index](h, embedding)
        return self.attentions[index](h) if self.attentions else h


class Middle(nnx.Module):
    """Residual block, attention if `heads` > 0, residual block."""

    def __init__(self, make: Maker, width: int, heads: int):
        self.block1 = make.block(width, width)
        self.attention = make.attention(width, heads) if heads else None
        self.block2 = make.block(width, width)

    def __call__(self, h: jax.Array, embedding: jax.Array | None = None) -> jax.Array:
        h = self.block1(h, embedding)
        h = h if self.attention is None else self.attention(h)
        return self.block2(h, embedding)


def down_levels(make: Maker, start: int, specs: Sequence[LevelSpec]) -> nnx.List:
    """Make the levels of an encoder, finest first."""
    starts = [start, *(spec.width for spec in specs)]
    return nnx.List(
        Level(make, [before] + [spec.width] * (spec.blocks - 1), spec, DOWN)
        for before, spec in zip(starts, specs, strict=False)
    )


def up_levels(
    make: Maker, start: int, specs: Sequence[LevelSpec], stored: Sequence[int] = ()
) -> nnx.List:
    """Make the levels of a decoder, coarsest first.

    `stored` are the channels of the stored features in the order in which they were
    stored; without them the decoder takes none.
    """
    left = list(stored)
    levels = []
    for spec in specs:
        starts = [start] + [spec.width] * (spec.blocks - 1)
        if left:
            starts = [width + left.pop() for width in starts]
        levels.append(Level(make, starts, spec, UP))
        start = spec.width
    return nnx.List(levels)


def stored_widths(start: int, specs: Sequence[LevelSpec]) -> list[int]:
    """Return the channels of what an encoder stores, the stem's `start` first."""
    widths = [start]
    for spec in specs:
        widths += [spec.width] * (spec.blocks + (spec.resample is not None))
    return widths


def _apply(module: Any, h: jax.Array, embedding: jax.Array | None) -> jax.Array:
    return module(h, embedding) if isinstance(module, ResBlock) else module(h)
