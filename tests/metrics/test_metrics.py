"""Metrics against scikit-image, and their conventions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from diffctl.metrics import accuracy, mse, psnr, ssim
from tests.tolerances import EXACT32, EXACT64


def _pair(channels):
    rng = np.random.default_rng(channels)
    x0 = rng.uniform(-1, 1, (16, 14, channels)).cumsum(0) / 6
    return np.clip(x0 + 0.2 * rng.normal(size=x0.shape), -1, 1), np.clip(x0, -1, 1)


def _skimage_ssim(x, x0):
    """Return the SSIM of images in [-1, 1], in float64."""
    return structural_similarity(
        np.asarray(x, np.float64) / 2 + 0.5,
        np.asarray(x0, np.float64) / 2 + 0.5,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_psnr_and_ssim_are_those_of_skimage(channels, x64):
    x, x0 = _pair(channels)
    unit, unit0 = x / 2 + 0.5, x0 / 2 + 0.5
    expected = _skimage_ssim(x, x0)
    run = jax.jit(lambda x, x0: (psnr(x, x0), ssim(x, x0), mse(x, x0)))
    found = run(jnp.asarray(x), jnp.asarray(x0))
    np.testing.assert_allclose(found[1], expected, **EXACT64)
    ratio = peak_signal_noise_ratio(unit0, unit, data_range=1.0)
    np.testing.assert_allclose(found[0], ratio, **EXACT64)
    np.testing.assert_allclose(found[2], np.mean((x - x0) ** 2), **EXACT64)


def _images():
    """Flat, nearly flat and structured images of every brightness, (16, 20, 1)."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(16, 20, 1))
    rows = np.indices((16, 20, 1))[0]
    for level in np.linspace(-1, 1, 9):
        yield np.full((16, 20, 1), level)
        for size in (1e-4, 1e-2, 0.3):
            yield np.clip(level + size * noise, -1, 1)
            yield np.clip(level + size * (rows > 7), -1, 1)


def test_single_precision_ssim_agrees_with_double():
    """At every brightness, where differences of means of squares would cancel."""
    images = np.stack(list(_images())).astype(np.float32)
    flat = images[-7]
    assert np.ptp(flat) == 0 and flat[0, 0, 0] == 1, "white"
    others = [np.full_like(flat, 0.998), np.full_like(flat, -1), images[3]]
    compare = jax.jit(jax.vmap(ssim, in_axes=(0, None)))
    for other in [*others, *images[::13]]:
        found = compare(images, other)
        expected = [_skimage_ssim(image, other) for image in images]
        np.testing.assert_allclose(found, expected, **EXACT32)
        assert np.max(found) <= 1


@pytest.mark.parametrize("size", [11, 17, 28, 43])
def test_equal_images_have_an_ssim_of_exactly_one(size):
    x = np.random.default_rng(size).uniform(-1, 1, (size, size + 2, 3))
    for image in (x, np.ones_like(x), np.full_like(x, 0.7), 1e-6 * x):
        image = jnp.asarray(image, jnp.float32)
        assert jax.jit(ssim)(image, image) == 1


def test_values_outside_the_range_are_clipped_but_not_by_mse():
    x0 = jnp.ones((12, 12, 1))
    assert jnp.isinf(psnr(x0 + 1, x0)) and mse(x0 + 1, x0) == 1
    chex.assert_trees_all_close(jax.jit(ssim)(x0 + 1, x0), jnp.ones(()), **EXACT32)
    # An error of 0.2 on [-1, 1] is 0.1 on [0, 1]: 20 dB.
    chex.assert_trees_all_close(psnr(x0 - 0.2, x0), jnp.asarray(20.0), **EXACT32)


def test_brightness_errors_are_not_hidden():
    # Stretching both images to their own range would make these two identical.
    x0 = np.asarray(_pair(1)[1], np.float32)
    expected = -10 * np.log10(np.mean((x0 / 4) ** 2))
    chex.assert_trees_all_close(jax.jit(psnr)(0.5 * x0, x0), expected, **EXACT32)


def test_ssim_needs_a_window():
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(jnp.zeros((8, 12, 1)), jnp.zeros((8, 12, 1)))


def test_accuracy_counts_hits():
    logits = jnp.array([[0.1, 0.9], [2.0, 1.0], [0.0, 3.0]])
    chex.assert_trees_all_close(
        accuracy(logits, jnp.array([1, 1, 1])), 2 / 3, **EXACT32
    )
    assert accuracy(logits[0], jnp.asarray(1)) == 1
