"""How many pixels, columns and rows the factories' fractions give."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.operators import BicubicSuperResolution, Mask, column_mask
from diffctl.operators.resampling import bicubic_matrix

KEY = jax.random.key(0)


def _hidden(shape, fraction):
    mask = Mask.random(KEY, shape, drop_fraction=fraction).mask
    return int(jnp.sum(mask[..., 0] == 0))


def test_masks_hide_the_decimal_part_that_was_meant():
    for percent in range(100):
        assert _hidden((10, 10, 1), percent / 100) == percent
        assert _hidden((10, 10, 1), 1 - (100 - percent) / 100) == percent


def test_masks_hide_as_many_pixels_as_the_fraction_counts():
    for count in (0, 1, 2, 3, 391, 392, 783):
        assert _hidden((28, 28, 1), count / 784) == count


def test_masks_round_other_parts_down_and_leave_a_pixel():
    assert _hidden((28, 28, 1), 0.92) == 721  # of 721.28
    assert _hidden((9, 9, 1), 0.5) == 40
    assert _hidden((10, 10, 1), 0.299999) == 29
    assert _hidden((10, 10, 1), np.nextafter(1.0, 0.0)) == 99
    assert _hidden((1, 1, 1), 0.999) == 0


def _kept(width, fraction):
    return int(jnp.sum(column_mask(KEY, 1, width, keep_fraction=fraction)))


def test_columns_are_counted_half_to_even():
    for thousandth in range(80, 1001, 5):
        assert _kept(100, thousandth / 1000) == round(Fraction(thousandth, 10))
    # In floats 57.49999999999999.
    assert _kept(100, 0.575) == 58


def test_centre_columns_are_counted_half_to_even():
    mask = column_mask(KEY, 1, 100, keep_fraction=0.145, center_fraction=0.145)
    frequency = np.abs(np.fft.fftfreq(100))
    assert int(mask.sum()) == 14
    assert frequency[np.asarray(mask[0]) == 1].max() <= 0.07


@pytest.mark.parametrize("size", [12, 65, 256])
def test_images_shrink_to_the_size_that_was_meant(size):
    for small in range(1, size + 1):
        assert bicubic_matrix(size, size / small).shape == (small, size)


def test_images_shrink_by_ceilings_otherwise():
    assert bicubic_matrix(9, 4).shape == (3, 9)
    assert bicubic_matrix(10, 3.0).shape == (4, 10)
    operator = BicubicSuperResolution.create((65, 65, 1), 65 / 15)
    assert operator(jnp.zeros((65, 65, 1))).shape == (15, 15, 1)
