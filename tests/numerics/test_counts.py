"""Counts against rational arithmetic on the numbers that were meant."""

import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.numerics.counts import part_of, rounded_quotients, shrunk


def test_decimal_parts_are_exact():
    for digits, total in ((100, 100), (100, 50), (1000, 1000), (1000, 28 * 28)):
        for i in range(digits + 1):
            found, meant = part_of(total, i / digits), Fraction(i * total, digits)
            for rounding in (math.floor, round, math.ceil):
                assert rounding(found) == rounding(meant)


@pytest.mark.parametrize("total", [3, 49, 784, 1021, 512 * 512])
def test_counts_come_back_from_their_fractions(total):
    counts = np.unique(np.linspace(0, total, 400).astype(int)).tolist()
    for count in counts:
        rest = 1 - count / total
        assert part_of(total, count / total) == count
        assert part_of(total, 1 - rest) == count
        assert part_of(total, rest) == total - count


def test_other_products_are_not_moved():
    for fraction in (0.3, 2**-0.5, 0.999, 1 / 3):
        exact = Fraction(fraction) * 1000
        found = part_of(1000, fraction)
        assert found == exact or abs(found - exact) < 1e-12
    assert math.floor(part_of(1000, 2**-0.5)) == 707
    # A millionth of a pixel is no rounding error.
    assert math.floor(part_of(100, 0.29 - 1e-8)) == 28


@pytest.mark.parametrize("kind", [np.float32, jnp.float32])
def test_single_precision_has_larger_rounding_errors(kind):
    assert Fraction(float(np.float32(0.29))) * 100 < 29
    assert part_of(100, kind(0.29)) == 29
    assert part_of(784, kind(1 / 784)) == 1
    assert math.ceil(shrunk(65, kind(65 / 15))) == 15


def test_exact_numbers_stay_exact():
    assert part_of(10, Fraction(1, 3)) == Fraction(10, 3)
    assert part_of(10, 1) == 10 and shrunk(10, 3) == Fraction(10, 3)
    assert shrunk(10, np.int64(4)) == Fraction(5, 2)


def test_sizes_come_back_from_their_factors():
    for size in (28, 64, 65, 255):
        for small in range(1, size + 1):
            assert math.ceil(shrunk(size, size / small)) == small


def test_quotients_are_rounded_as_fractions_are():
    numerators = np.arange(-50, 200)
    for denominator in range(1, 40):
        expected = [round(Fraction(int(n), denominator)) for n in numerators]
        assert rounded_quotients(numerators, denominator).tolist() == expected
