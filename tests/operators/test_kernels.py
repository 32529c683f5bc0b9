"""Blur kernels: sums, symmetry and the limits of narrow and wide ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import gaussian_kernel, gaussian_taps
from tests.tolerances import EXACT32, EXACT64

SIZES = (1, 2, 3, 4, 9, 10)
STDS = (1e-50, 1e-30, 1e-10, 1e-3, 0.02, 0.03, 0.04, 0.1, 0.5, 3.0, 1e10, 1e30)


def _by_logarithms(size, std):
    """Return the taps in float64, the nearest pixel's weight taken out first."""
    squares = (np.arange(size) - (size - 1) / 2) ** 2
    with np.errstate(over="ignore"):
        weights = np.exp(-((squares - squares.min()) / std / std) / 2)
    return weights / weights.sum()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
def test_gaussians_of_every_width(size, precision):
    with jax.enable_x64(precision == "float64"):
        tolerance = EXACT64 if precision == "float64" else EXACT32
        for std in STDS:
            taps = gaussian_taps(size, std)
            assert taps.dtype == precision
            np.testing.assert_allclose(taps, _by_logarithms(size, std), **tolerance)


def test_narrow_gaussians_are_the_nearest_pixels():
    np.testing.assert_array_equal(gaussian_taps(4, 0.03), [0, 0.5, 0.5, 0])
    np.testing.assert_array_equal(gaussian_taps(3, 0.03), [0, 1, 0])
    np.testing.assert_array_equal(gaussian_kernel(2, 1e-3), np.full((2, 2), 0.25))


def test_wider_gaussians_keep_their_bits():
    for size, std in ((25, 3.0), (61, 3.0), (9, 0.5)):
        offset = jnp.arange(size) - (size - 1) / 2
        weights = jnp.exp(-0.5 * (offset / std) ** 2)
        expected = weights / weights.sum()
        np.testing.assert_array_equal(gaussian_taps(size, std), expected)
