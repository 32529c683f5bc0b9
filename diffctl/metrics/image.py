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
    means, variances = _local_moments(jnp.stack([a, b, a - b]))
    c1, c2 = 0.01**2, 0.03**2
    # Luminance and structure as what they lack to 1, in sums of squares, for instance
    # 2 cov(a, b) = var(a) + var(b) - var(a - b): rounding cannot lift them above 1.
    luminance = means[2] ** 2 / (means[0] ** 2 + means[1] ** 2 + c1)
    structure = variances[2] / (variances[0] + variances[1] + c2)
    return 1 - jnp.mean(luminance + (1 - luminance) * structure)


_WINDOW = 11
_WINDOW_STD = 1.5


def _to_unit(x: jax.Array) -> jax.Array:
    return jnp.clip(x / 2 + 0.5, 0, 1)


def _local_moments(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return Gaussian-weighted means and variances over windows inside (N, H, W, C).

    Axis by axis: the variance of a window is the mean of the variances of its columns
    and the variance of their means. E[x^2] - E[x]^2 would be rounding error where a
    bright image is flat.
    """
    offset = jnp.arange(_WINDOW, dtype=images.dtype) - _WINDOW // 2
    weights = jnp.exp(-0.5 * (offset / _WINDOW_STD) ** 2)
    weights = weights / weights.sum()
    means, variances = images, jnp.zeros_like(images)
    for axis in (1, 2):
        inner = _windows(means, axis)
        means = _average(weights, inner)
        spread = (inner - means[None]) ** 2
        variances = _average(weights, _windows(variances, axis) + spread)
    return means, variances


def _windows(images: jax.Array, axis: int) -> jax.Array:
    """Return the image shifted by 0, 1, ..., window - 1 pixels, along a new axis."""
    count = images.shape[axis] - _WINDOW + 1
    shifts = range(_WINDOW)
    return jnp.stack(
        [jax.lax.slice_in_dim(images, k, k + count, axis=axis) for k in shifts]
    )


def _average(weights: jax.Array, values: jax.Array) -> jax.Array:
    return jnp.tensordot(weights, values, 1, precision=jax.lax.Precision.HIGHEST)
