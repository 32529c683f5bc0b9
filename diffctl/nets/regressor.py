"""A small network from images to images, without a noise level."""

import jax
from flax import nnx

from diffctl.host import Count, Natural
from diffctl.nets.layers import Conv, depth_to_space, space_to_depth


class SmallRegressor(nnx.Module):
    """Convolutions on 2 x 2 patches, added to the input: (H, W, C) -> (H, W, C).

    Args (of the constructor):
        channels: image channels.
        width: feature channels.
        depth: hidden convolutions.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        channels: Count = 1,
        width: Count = 32,
        depth: Natural = 3,
        rngs: nnx.Rngs,
    ):
        folded = 4 * channels
        self.stem = Conv(folded, width, rngs=rngs)
        self.hidden = nnx.List(Conv(width, width, rngs=rngs) for _ in range(depth))
        self.head = Conv(width, folded, gain=0.1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map an image with even sides to one of the same shape."""
        h = self.stem(space_to_depth(x, 2))
        for conv in self.hidden:
            h = h + conv(jax.nn.silu(h))
        return x + depth_to_space(self.head(jax.nn.silu(h)), 2)
