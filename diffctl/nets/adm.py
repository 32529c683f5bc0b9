"""The U-Net of guided diffusion (ADM) and its classifier of noisy images.

Networks of openai/guided-diffusion and openai/consistency_models. Encoder and decoder
are flat lists of stages, each a short list of modules applied in turn; every encoder
stage stores its result, every decoder stage takes the latest stored one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

import jax
import jax.numpy as jnp
from flax import nnx

from diffctl.host import Count, Natural, check_value
from diffctl.nets.blocks import (
    AttentionPool,
    BlockStyle,
    Modulation,
    Resample,
    ResBlock,
    Upsample,
)
from diffctl.nets.embeddings import Sinusoid, TimeEmbedding
from diffctl.nets.layers import Conv, Images, mean_pool, upsample_nearest

GROUPS = 32


@dataclasses.dataclass(frozen=True)
class Level:
    """One resolution: feature channels, residual blocks, attention heads (0: none)."""

    width: Count
    blocks: Natural
    heads: Natural = 0
    heads_up: Natural = 0  # in the decoder


class Pool(TypedDict):
    """Attention pooling of the classifier."""

    pixels: Count
    heads: Count
    classes: Count


Resampling = Literal["residual", "convolution"]


class _Builder:
    """Makes the stages of one network."""

    def __init__(
        self, width: int, modulation: Modulation, resample: Resampling, rngs: nnx.Rngs
    ):
        check_value(resample, Resampling, "resample")
        self.style = BlockStyle(groups=GROUPS, modulation=modulation)
        self.embedding = 4 * width
        self.by_blocks = resample == "residual"
        self.rngs = rngs

    def block(self, start: int, width: int, resample: Resample | None = None) -> Any:
        return ResBlock(
            start,
            width,
            style=self.style,
            embedding=self.embedding,
            resample=resample,
            rngs=self.rngs,
        )

    def attention(self, width: int, heads: int) -> list[Any]:
        return [self.style.attention(width, heads, self.rngs)] if heads else []

    def down(self, width: int) -> Any:
        if self.by_blocks:
            return self.block(width, width, mean_pool)
        return Conv(width, width, stride=2, padding=1, rngs=self.rngs)

    def up(self, width: int) -> Any:
        if self.by_blocks:
            return self.block(width, width, upsample_nearest)
        return Upsample(width, rngs=self.rngs)

    def encoder(self, channels: int, levels: Sequence[Level]) -> list[list[Any]]:
        width = levels[0].width
        stages: list[list[Any]] = [[Conv(channels, width, rngs=self.rngs)]]
        for number, level in enumerate(levels):
            if number:
                stages.append([self.down(width)])
            for _ in range(level.blocks):
                block = self.block(width, level.width)
                stages.append([block, *self.attention(level.width, level.heads)])
                width = level.width
        return stages

    def middle(self, width: int, heads: int) -> list[Any]:
        inner = self.attention(width, heads)
        return [self.block(width, width), *inner, self.block(width, width)]

    def decoder(self, levels: Sequence[Level]) -> list[list[Any]]:
        stored = stored_widths(levels)
        stages: list[list[Any]] = []
        width = levels[-1].width
        for number, level in reversed(list(enumerate(levels))):
            for index in range(level.blocks + 1):
                block = self.block(width + stored.pop(), level.width)
                width = level.width
                stage = [block, *self.attention(width, level.heads_up)]
                last = index == level.blocks
                stages.append([*stage, self.up(width)] if number and last else stage)
        return stages


class _Trunk(nnx.Module):
    """Time embedding, encoder and middle, which U-Net and classifier share."""

    time: TimeEmbedding
    encoder: nnx.List
    middle: nnx.List

    def embed(self, timestep: jax.Array, label: Any, dtype: Any) -> jax.Array:
        """Return the time embedding after its activation, (4 width,)."""
        return jax.nn.silu(self.time(timestep, label, dtype))

    def bottom(
        self, x: jax.Array, embedding: jax.Array, control: jax.Array | None = None
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Return the middle's result (h, w, C) and the stored features.

        `control` is added to the middle's input, after the last features are stored.
        """
        stored = []
        for stage in self.encoder:
            x = _run(stage, x, embedding)
            stored.append(x)
        x = x if control is None else x + control
        return _run(self.middle, x, embedding), stored


class ADMUNet(_Trunk):
    """The U-Net; `net(x, timestep)` predicts the noise, and its variance if learned.

    Args (of the constructor):
        channels: of the image and of the output; twice as many with learned variance,
            of which the first half is the noise.
        width: of the sinusoid; the time embedding is four times as wide.
        levels: one dictionary of the fields of `Level` per resolution, finest first.
        middle_heads: attention heads at the bottom.
        modulation: "film" or "additive".
        resample: "residual" (inside residual blocks) or "convolution".
        classes: number of class labels; 0 for an unconditional network.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        channels: tuple[Count, Count],
        width: Count,
        levels: Sequence[Annotated[Mapping[str, int], Level]],
        middle_heads: Natural = 1,
        modulation: Modulation = "film",
        resample: Resampling = "residual",
        classes: Natural = 0,
        rngs: nnx.Rngs,
    ):
        plan = [Level(**level) for level in levels]
        build = _Builder(width, modulation, resample, rngs)
        features = Sinusoid(width)
        self.classes = classes
        self.time = TimeEmbedding(features, 4 * width, classes=classes, rngs=rngs)
        self.encoder = _stages(build.encoder(channels[0], plan))
        self.middle = nnx.List(build.middle(plan[-1].width, middle_heads))
        self.decoder = _stages(build.decoder(plan))
        self.norm = build.style.norm(plan[0].width)
        self.head = Conv(plan[0].width, channels[1], gain=0.0, rngs=rngs)

    @property
    def images(self) -> Images:
        """What images the network takes and makes."""
        stages = [stage[0] for stage in self.encoder]
        halvings = sum(map(_halves, stages))
        stem, head = stages[0].kernel, self.head.kernel
        return Images(stem.shape[2], head.shape[3], 2**halvings)

    def __call__(
        self,
        x: jax.Array,
        timestep: jax.Array,
        *,
        label: Any = None,
        control: jax.Array | None = None,
    ) -> jax.Array:
        """Map an image (H, W, C) and a time step () to (H, W, D).

        `label` is a class number or a vector of class weights. `control` (h, w, C') is
        added to the input of the middle, after the last stored features.
        """
        embedding = self.embed(timestep, label, x.dtype)
        h, stored = self.bottom(x, embedding, control)
        for stage in self.decoder:
            h = _run(stage, jnp.concatenate([h, stored.pop()], axis=-1), embedding)
        return self.head(jax.nn.silu(self.norm(h)))


class ADMClassifier(_Trunk):
    """Encoder and attention pooling; `net(x, timestep)` returns logits.

    Args (of the constructor):
        channels: image channels.
        width, levels, middle_heads, modulation, resample: as in `ADMUNet`.
        pool: number of `pixels` at the bottom, attention `heads`, `classes`.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        channels: Count,
        width: Count,
        levels: Sequence[Annotated[Mapping[str, int], Level]],
        pool: Pool,
        middle_heads: Natural = 1,
        modulation: Modulation = "film",
        resample: Resampling = "residual",
        rngs: nnx.Rngs,
    ):
        plan = [Level(**level) for level in levels]
        bottom = plan[-1].width
        build = _Builder(width, modulation, resample, rngs)
        self.time = TimeEmbedding(Sinusoid(width), 4 * width, rngs=rngs)
        self.encoder = _stages(build.encoder(channels, plan))
        self.middle = nnx.List(build.middle(bottom, middle_heads))
        self.norm = build.style.norm(bottom)
        self.pool = AttentionPool(
            pool["pixels"], bottom, pool["classes"], heads=pool["heads"], rngs=rngs
        )

    def __call__(self, x: jax.Array, timestep: jax.Array) -> jax.Array:
        """Map a noisy image (H, W, C) and a time step () to logits (classes,)."""
        embedding = self.embed(timestep, None, x.dtype)
        h, _ = self.bottom(x, embedding)
        return self.pool(jax.nn.silu(self.norm(h)))


def stored_widths(levels: Sequence[Level]) -> list[int]:
    """Return the channels that each encoder stage stores."""
    widths = [levels[0].width]
    for number, level in enumerate(levels):
        widths += widths[-1:] * (number > 0)
        widths += [level.width] * level.blocks
    return widths


def _halves(module: Any) -> bool:
    """Return whether a module of the encoder halves the resolution."""
    is_strided = isinstance(module, Conv) and module.stride == 2
    return is_strided or getattr(module, "resample", None) is not None


def _stages(stages: list[list[Any]]) -> nnx.List:
    return nnx.List(nnx.List(stage) for stage in stages)


def _run(stage: nnx.List, h: jax.Array, embedding: jax.Array) -> jax.Array:
    for module in stage:
        h = module(h, embedding) if isinstance(module, ResBlock) else module(h)
    return h
