"""A small convolutional classifier for small grey images, smooth in its input."""

import jax
from flax import nnx

from diffctl.host import Count
from diffctl.nets.layers import Conv, Linear, mean_pool


class SmallClassifier(nnx.Module):
    """Two convolutions with pooling and two linear layers; `net(x)` returns logits.

    SiLU and mean pooling instead of ReLU and maxima: gradients with respect to the
    image are used for guidance and should not jump.

    Args (of the constructor):
        size: height and width of the image, divisible by 4.
        channels: image channels.
        classes: number of logits.
        width: channels after the first convolution; twice that after the second.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        size: Count = 28,
        channels: Count = 1,
        classes: Count = 10,
        width: Count = 16,
        rngs: nnx.Rngs,
    ):
        self.conv1 = Conv(channels, width, rngs=rngs)
        self.conv2 = Conv(width, 2 * width, rngs=rngs)
        self.dense1 = Linear((size // 4) ** 2 * 2 * width, 4 * width, rngs=rngs)
        self.dense2 = Linear(4 * width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map an image (H, W, C) in [-1, 1] to logits (classes,)."""
        h = mean_pool(jax.nn.silu(self.conv1(x)))
        h = mean_pool(jax.nn.silu(self.conv2(h)))
        return self.dense2(jax.nn.silu(self.dense1(h.reshape(-1))))
