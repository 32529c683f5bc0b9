"""The common small classifier of digits: two convolutions and two linear layers."""

import jax
import jax.numpy as jnp
from flax import nnx

from diffctl.host import Count, Natural
from diffctl.nets.layers import Conv, Linear


class DigitClassifier(nnx.Module):
    """Convolution, ReLU and 2x2 maximum twice, then two linear layers; `net(x)`.

    The features are flattened in the order channel, row, column, as in PyTorch.

    Args (of the constructor):
        size: height and width of the image.
        widths: channels of the image, of the two convolutions, of the hidden layer,
            and number of logits.
        kernel: side of the convolution kernels.
        padding: zeros on every side of the convolutions.
        rngs: source of the initial parameters.
    """

    def __init__(
        self,
        *,
        size: Count,
        widths: tuple[Count, Count, Count, Count, Count],
        kernel: Count = 5,
        padding: Natural = 2,
        rngs: nnx.Rngs,
    ):
        image, first, second, hidden, classes = widths
        for _ in range(2):
            size = (size + 2 * padding - kernel + 1) // 2
        self.conv1 = Conv(image, first, kernel, padding=padding, rngs=rngs)
        self.conv2 = Conv(first, second, kernel, padding=padding, rngs=rngs)
        self.linear1 = Linear(size**2 * second, hidden, rngs=rngs)
        self.linear2 = Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map an image (H, W, C) to logits (classes,)."""
        h = max_pool(jax.nn.relu(self.conv1(x)))
        h = max_pool(jax.nn.relu(self.conv2(h)))
        h = self.linear1(h.transpose(2, 0, 1).reshape(-1))
        return self.linear2(jax.nn.relu(h))


def max_pool(x: jax.Array) -> jax.Array:
    """Take the maximum of 2 x 2 pixels; a last odd row or column is dropped."""
    rows, columns = x.shape[0] // 2, x.shape[1] // 2
    even = x[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, x.shape[2])
    return jnp.max(even, axis=(1, 3))
