"""The stages of the networks of EDM, and their order, in encoder and decoder."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from diffctl.host import Count, Natural
from diffctl.nets.blocks import BlockStyle, FilterDown, FilterUp, Resample, ResBlock
from diffctl.nets.layers import Conv, mean_pool, upsample_nearest

HEAD_WIDTH = 64  # of ADM; narrower layers have no attention
BOX = (1, 1)


@dataclasses.dataclass(frozen=True)
class Level:
    """One resolution: feature channels, residual blocks, whether they attend."""

    width: Count
    blocks: Natural
    attention: bool = False


class Stage(nnx.Module):
    """A residual block, followed by attention if `heads` > 0."""

    def __init__(
        self,
        start: int,
        width: int,
        *,
        style: BlockStyle,
        embedding: int,
        heads: int = 0,
        resample: Resample | None = None,
        rngs: nnx.Rngs,
    ):
        self.block = ResBlock(
            start,
            width,
            style=style,
            embedding=embedding,
            resample=resample,
            rngs=rngs,
        )
        self.attention = style.attention(width, heads, rngs) if heads else None

    def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
        h = self.block(x, embedding)
        return h if self.attention is None else self.attention(h)


class ConvDown(Conv):
    """A 3x3 convolution, then a filter that halves the resolution."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        taps: tuple[float, ...],
        *,
        rngs: nnx.Rngs,
    ):
        # One pixel for the convolution, the rest for the filter that follows it.
        pad = 1 + (len(taps) - 1) // 2
        super().__init__(channels_in, channels_out, padding=pad, rngs=rngs)
        self.down = FilterDown(taps, pad=0)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(super().__call__(x))


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes the stages of one network."""

    style: BlockStyle
    embedding: int
    head_width: int  # 0: a single head
    rngs: nnx.Rngs
    down: Resample
    up: Resample

    def stage(
        self,
        start: int,
        width: int,
        attention: bool = False,
        resample: Resample | None = None,
    ) -> Stage:
        heads = width // self.head_width if self.head_width else 1
        return Stage(
            start,
            width,
            style=self.style,
            embedding=self.embedding,
            heads=heads if attention else 0,
            resample=resample,
            rngs=self.rngs,
        )


def encoder_stages(
    make: Maker, size: int, image: int, stem: int, levels: Sequence[Level]
) -> Iterator[tuple[str, Any]]:
    """Yield the stages with their names: the stem, then blocks and downsampling."""
    width = stem
    for number, level in enumerate(levels):
        at = _at(size, number)
        if number == 0:
            yield f"{at}_conv", Conv(image, stem, rngs=make.rngs)
        else:
            yield f"{at}_down", make.stage(width, width, resample=make.down)
        for block in range(level.blocks):
            stage = make.stage(width, level.width, attention=level.attention)
            yield f"{at}_block{block}", stage
            width = level.width


def with_side_path(
    stages: Mapping[str, Any],
    size: int,
    image: int,
    levels: Sequence[Level],
    taps: tuple[float, ...],
    rngs: nnx.Rngs,
) -> Iterator[tuple[str, Any]]:
    """Insert, after every downsampling, a convolution of the path from the image."""
    downs = {f"{_at(size, n)}_down": n for n in range(1, len(levels))}
    side = image
    for name, stage in stages.items():
        yield name, stage
        if name in downs:
            width = levels[downs[name] - 1].width
            at = _at(size, downs[name])
            yield f"{at}_aux_residual", ConvDown(side, width, taps, rngs=rngs)
            side = width


def decoder_stages(
    make: Maker, size: int, stem: int, levels: Sequence[Level], attend_all: bool
) -> Iterator[tuple[str, Any]]:
    """Yield the stages; attention in all blocks of a level, or in its last alone."""
    stored = _stored_widths(stem, levels)
    width = levels[-1].width
    for number, level in reversed(list(enumerate(levels))):
        at = _at(size, number)
        if number == len(levels) - 1:
            yield f"{at}_in0", make.stage(width, width, attention=True)
            yield f"{at}_in1", make.stage(width, width)
        else:
            yield f"{at}_up", make.stage(width, width, resample=make.up)
        for block in range(level.blocks + 1):
            attends = level.attention and (attend_all or block == level.blocks)
            stage = make.stage(width + stored.pop(), level.width, attention=attends)
            yield f"{at}_block{block}", stage
            width = level.width


def _stored_widths(stem: int, levels: Sequence[Level]) -> list[int]:
    widths = [stem]
    for number, level in enumerate(levels):
        widths += widths[-1:] * (number > 0) + [level.width] * level.blocks
    return widths


def _at(size: int, level: int) -> str:
    return f"{size >> level}x{size >> level}"


def resamplers(taps: tuple[float, ...]) -> tuple[Resample, Resample]:
    """Return the resampling downwards and upwards with these taps."""
    if taps == BOX:  # the same numbers, and cheaper
        return mean_pool, upsample_nearest
    return FilterDown(taps, pad=(len(taps) - 1) // 2), FilterUp(taps)
