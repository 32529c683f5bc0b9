"""Image quality, for one image (H, W, C) in [-1, 1] against its truth.

PSNR and SSIM first clip to the range and map it to [0, 1] (x / 2 + 1 / 2), without
stretching each image's contrast as some public codes do: that hides brightness errors.
"""

import jax
import jax.numpy as jnp


def mse(x: jax.Array, x0: jax.Array) -> jax.Array:
    """Return the mean squared error on the [-1, 1] scale, without clipping, ()."""
    if not x.size:
        raise ValueError(f"an image of shape {x.shape} has no pixels to compare.")
    return jnp.mean((x - x0) ** 2)


def psnr(x: jax.Array, x0: jax.Array) -> jax.Array:
    """Return the peak signal-to-noise ratio -10 log10 MSE on [0, 1], in dB, ().

    Infinite for identical images.
    """
    return -10 * jnp.log10(mse(_to_unit(x), _to_unit(x0)))


def ssim(x: jax.Array, x0: jax.Array) -> jax.Array:
    """Return the structural similarity, averaged over pixels and channels, ().

    Gaussian window of 11 pixels with std 1.5, K = (0.01, 0.03), range 1, biased local
    covariances, windows inside the image only: as in the original paper and in `piq`
    for images up to 256 pixels. Raises `ValueError` for images smaller than the window.

    Source: Image Quality Assessment: From Error Visibility to Structural Similarity.
    """
    if x.ndim != 3 or min(x.shape[:2]) < _WINDOW:
        raise ValueError(
            f"the image has shape {x.shape}; SSIM needs (height, width, channels) with "
            f"at least {_WINDOW} x {_WINDOW} pixels. Pad the image, or use psnr."
        )
    a, b = _to_unit(x), _to_unit(x0)
    mean_a, mean_b = _local_mean(a), _local_mean(b)
    var_a = _local_mean(a * a) - mean_a**2
    var_b = _local_mean(b * b) - mean_b**2
    covariance = _local_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return jnp.mean(luminance * structure)


_WINDOW = 11
_WINDOW_STD = 1.5


def _to_unit(x: jax.Array) -> jax.Array:
    return jnp.clip(x / 2 + 0.5, 0, 1)


def _local_mean(image: jax.Array) -> jax.Array:
    """Return Gaussian-weighted means over the windows inside the image."""
    offset = jnp.arange(_WINDOW, dtype=image.dtype) - _WINDOW // 2
    weights = jnp.exp(-0.5 * (offset / _WINDOW_STD) ** 2)
    weights = weights / weights.sum()
    height, width = (n - _WINDOW + 1 for n in image.shape[:2])
    down = jnp.stack([image[j : j + height] for j in range(_WINDOW)])
    rows = jnp.tensordot(weights, down, 1, precision=jax.lax.Precision.HIGHEST)
    across = jnp.stack([rows[:, j : j + width] for j in range(_WINDOW)])
    return jnp.tensordot(weights, across, 1, precision=jax.lax.Precision.HIGHEST)
