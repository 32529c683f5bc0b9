"""A small U-Net for small images, made to be fast on a CPU as well.

The image is folded into patches first (space to depth), so that the finest feature
maps have half the resolution and the convolutions stay wide: on a CPU this costs a
third less than a stem at full resolution with the same number of parameters.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffctl.host import Count, Natural, show
from diffctl.nets.blocks import BlockStyle, ResBlock
from diffctl.nets.layers import (
    Conv,
    FourierFeatures,
    GroupNorm,
    Images,
    Linear,
    depth_to_space,
    mean_pool,
    space_to_depth,
    upsample_nearest,
)


class UNet(nnx.Module):
    """Encoder, middle and decoder with skip connections; `net(x, noise_label)`.

    Args (of the constructor):
        channels: image channels, the same in and out.
        widths: feature channels per resolution, finest first; each further level halves
            the resolution, so `H / patch` must be divisible by 2 ** (len(widths) - 1).
        blocks: residual blocks per resolution on the way down; the way up has one each.
        embedding: width of the noise-level embedding.
        patch: side of the patches folded into the channels.
        groups: groups of the norms.
        heads: attention heads at the coarsest resolution.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        channels: Count,
        widths: Sequence[Count] = (64, 88),
        blocks: Sequence[Natural] = (1, 2),
        embedding: Count = 128,
        patch: Count = 2,
        groups: Count = 8,
        heads: Count = 2,
        rngs: nnx.Rngs,
    ):
        if len(widths) != len(blocks):
            raise ValueError(
                f"widths is {show(widths)} and blocks {show(blocks)}; expected one "
                "entry of both for each resolution."
            )
        style = BlockStyle(groups=groups)
        shared: dict[str, Any] = {
            "style": style,
            "embedding": embedding,
            "rngs": rngs,
        }
        folded = channels * patch**2
        self.patch = patch
        self.features = FourierFeatures(embedding // 4, lowest=0.5, highest=24.0)
        self.embed1 = Linear(2 * (embedding // 4), embedding, rngs=rngs)
        self.embed2 = Linear(embedding, embedding, rngs=rngs)
        self.stem = Conv(folded, widths[0], rngs=rngs)
        incoming = (widths[0], *widths[:-1])
        self.down = nnx.List(
            nnx.List(
                ResBlock(start if b == 0 else width, width, **shared)
                for b in range(count)
            )
            for start, width, count in zip(incoming, widths, blocks, strict=True)
        )
        self.middle = ResBlock(widths[-1], widths[-1], **shared)
        self.attention = style.attention(widths[-1], heads, rngs)
        below = (*widths[1:], widths[-1])
        self.up = nnx.List(
            ResBlock(deeper + width, width, **shared)
            for deeper, width in zip(below, widths, strict=True)
        )
        self.norm = GroupNorm(widths[0], groups=groups)
        self.head = Conv(widths[0], folded, gain=0.0, rngs=rngs)

    @property
    def images(self) -> Images:
        """What images the network takes and makes."""
        channels = self.stem.kernel.shape[2] // self.patch**2
        return Images(channels, channels, self.patch * 2 ** (len(self.down) - 1))

    def __call__(self, x: jax.Array, noise_label: jax.Array) -> jax.Array:
        """Map an image (H, W, C) and a scalar noise label to (H, W, C)."""
        silu = jax.nn.silu
        embedding = silu(self.embed1(self.features(noise_label).astype(x.dtype)))
        embedding = silu(self.embed2(embedding))
        h = self.stem(space_to_depth(x, self.patch))
        skips = []
        for level, blocks in enumerate(self.down):
            h = mean_pool(h) if level else h
            for block in blocks:
                h = block(h, embedding)
            skips.append(h)
        h = self.attention(self.middle(h, embedding))
        for level in reversed(range(len(skips))):
            h = self.up[level](jnp.concatenate([h, skips[level]], axis=-1), embedding)
            h = upsample_nearest(h) if level else h
        return depth_to_space(self.head(silu(self.norm(h))), self.patch)
