"""The U-Net of DDPM: that of ermongroup/ddim and the UNet2DModel of diffusers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

import jax
from flax import nnx

from diffctl.host import Count, Natural
from diffctl.nets.blocks import BlockStyle
from diffctl.nets.embeddings import Sinusoid, TimeEmbedding
from diffctl.nets.ladder import (
    LevelSpec,
    Maker,
    Middle,
    down_levels,
    stored_widths,
    up_levels,
)
from diffctl.nets.layers import Conv, Images


class MiddleSpec(TypedDict):
    """Attention heads at the bottom, gain of the residual sums there, norm or none."""

    heads: Natural
    gain: float
    norm: bool


class TimeSpec(TypedDict, total=False):
    """Of the sinusoid."""

    shift: float
    sines_first: bool


class DDPMUNet(nnx.Module):
    """Encoder, middle and decoder with skip connections; `net(x, timestep)`.

    Args (of the constructor):
        channels: of the image, of the stem, and of the output. The sinusoid is as wide
            as the stem, the time embedding four times.
        down: one dictionary of the fields of `LevelSpec` per resolution, finest first.
        up: the same for the decoder, coarsest first; one block more per level.
        middle: attention `heads` (0: none), `gain` of its residual sums, and whether
            its attention has a `norm`.
        style: fields of `BlockStyle`: groups, epsilon, modulation.
        time: `shift` and `sines_first` of the sinusoid.
        classes: number of class labels; 0 for an unconditional network.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        channels: tuple[Count, Count, Count],
        down: Sequence[Annotated[Mapping[str, Any], LevelSpec]],
        up: Sequence[Annotated[Mapping[str, Any], LevelSpec]],
        middle: MiddleSpec,
        style: Annotated[Mapping[str, Any], BlockStyle],
        time: TimeSpec,
        classes: Natural = 0,
        rngs: nnx.Rngs,
    ):
        shared = BlockStyle(**style)
        plan = [LevelSpec(**spec) for spec in down]
        back = [LevelSpec(**spec) for spec in up]
        image, width, out = channels
        bottom = plan[-1].width
        make = Maker(shared, 4 * width, rngs)
        inner = dataclasses.replace(make, style=_middle_style(shared, middle))
        features = Sinusoid(width, **time)
        self.classes = classes
        self.time = TimeEmbedding(features, 4 * width, classes=classes, rngs=rngs)
        self.stem = Conv(image, width, rngs=rngs)
        self.down = down_levels(make, width, plan)
        self.middle = Middle(inner, bottom, middle["heads"])
        self.up = up_levels(make, bottom, back, stored_widths(width, plan))
        self.norm = shared.norm(plan[0].width)
        self.head = Conv(plan[0].width, out, gain=0.0, rngs=rngs)

    @property
    def images(self) -> Images:
        """What images the network takes and makes."""
        halvings = sum(level.resample is not None for level in self.down)
        stem, head = self.stem.kernel, self.head.kernel
        return Images(stem.shape[2], head.shape[3], 2**halvings)

    def __call__(
        self, x: jax.Array, timestep: jax.Array, *, label: Any = None
    ) -> jax.Array:
        """Map an image (H, W, C) and a time step () to (H, W, D)."""
        embedding = self.embed(timestep, label, x.dtype)
        h, stored = self.bottom(x, embedding)
        for level in self.up:
            h = level.up(h, embedding, stored)
        return self.head(jax.nn.silu(self.norm(h)))

    def embed(self, timestep: jax.Array, label: Any, dtype: Any) -> jax.Array:
        """Return the time embedding after its activation, (4 width,)."""
        return jax.nn.silu(self.time(timestep, label, dtype))

    def bottom(
        self, x: jax.Array, embedding: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Return the middle's result (h, w, C) and the stored features."""
        h = self.stem(x)
        stored = [h]
        for level in self.down:
            h, more = level.down(h, embedding)
            stored += more
        return self.middle(h, embedding), stored


def _middle_style(style: BlockStyle, middle: MiddleSpec) -> BlockStyle:
    return dataclasses.replace(
        style, gain=middle["gain"], normed_attention=middle["norm"]
    )
