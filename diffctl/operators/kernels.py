"""Blur kernels: non-negative, summing to 1."""

import math

import jax
import jax.numpy as jnp

from diffctl.operators.checks import require

# Below, all but the nearest pixels weigh less than the smallest float64: the kernel no
# longer changes, and the logarithms of its weights stay finite.
_NARROWEST_STD = 0.02


def gaussian_taps(size: int, std: float) -> jax.Array:
    """Return a sampled 1-D Gaussian, (size,), centred at (size - 1) / 2, sum 1."""
    _check_size(size)
    require(
        std > 0,
        f"std is {std}; expected a positive standard deviation in pixels.",
    )
    offset = jnp.arange(size) - (size - 1) / 2
    # Even sizes have no pixel in the centre: without the shift of a softmax all weights
    # of a narrow kernel would be 0.
    return jax.nn.softmax(-0.5 * (offset / max(std, _NARROWEST_STD)) ** 2)


def gaussian_kernel(size: int, std: float) -> jax.Array:
    """Return a sampled 2-D Gaussian, (size, size), sum 1.

    Use an odd `size`: an even one moves the image by half a pixel. The "61 x 61, std 3"
    kernel of DPS is cut off at 4 std, which is `gaussian_kernel(25, 3.0)`.
    """
    taps = gaussian_taps(size, std)
    return taps[:, None] * taps[None, :]


def motion_kernel(
    key: jax.Array, size: int, intensity: float | jax.Array = 0.5
) -> jax.Array:
    """Draw the kernel of a camera that moves during the exposure, (size, size), sum 1.

    The camera starts in a random direction and walks at varying speed while its heading
    performs a random walk, whose standard deviation reaches pi * intensity at the end
    of the exposure: 0 is a straight line, 1 a tangle. The path is centred and fits into
    the kernel; it covers 0.5 to 1 times its size. Points are spread over their four
    neighbouring pixels with bilinear weights.

    Args:
        key: of the path; one kernel per key, traceable.
        size: of the kernel in pixels, static.
        intensity: of the turning, usually in [0, 1].
    """
    _check_size(size)
    num_points = 16 * size
    turn_key, speed_key, start_key, length_key = jax.random.split(key, 4)
    turns = jax.random.normal(turn_key, (num_points,)) / math.sqrt(num_points)
    start = jax.random.uniform(start_key, maxval=2 * math.pi)
    heading = start + math.pi * intensity * jnp.cumsum(turns)
    speed = _smooth_speed(speed_key, num_points)
    steps = jnp.stack([jnp.sin(heading), jnp.cos(heading)], axis=-1)
    path = jnp.cumsum(speed[:, None] * steps, axis=0)
    path = path - path.mean(0, keepdims=True)
    length = (size - 1) * jax.random.uniform(length_key, minval=0.5, maxval=1.0)
    half = (size - 1) / 2
    extent = jnp.max(jnp.abs(path)) + jnp.finfo(path.dtype).tiny
    path = half + path * jnp.minimum(length, half / extent)
    pixel = jnp.arange(size)
    weights = jnp.maximum(1 - jnp.abs(path[:, :, None] - pixel[None, None, :]), 0)
    kernel = jnp.einsum(
        "nh,nw->hw", weights[:, 0], weights[:, 1], precision=jax.lax.Precision.HIGHEST
    )
    return kernel / kernel.sum()


def _smooth_speed(key: jax.Array, num_points: int) -> jax.Array:
    """Draw positive speeds, (num_points,), of a few slow oscillations, sum 1."""
    order = jnp.arange(1, 5)
    phase = jnp.arange(num_points) / num_points
    waves = jnp.cos(math.pi * order[:, None] * phase[None, :]) / order[:, None]
    amplitude = 0.5 * jax.random.normal(key, (4,))
    speed = jnp.exp(amplitude @ waves)
    return speed / speed.sum()


def _check_size(size: int) -> None:
    require(
        isinstance(size, int) and size >= 1,
        f"size is {size!r}; expected a positive number of pixels.",
    )
