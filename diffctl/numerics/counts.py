"""Whole numbers from fractions, without the rounding errors of floats.

A float stands for a number that somebody meant: 0.29 for 29/100, 65 / 15 for 13/3. Yet
in floats 0.29 * 100 is 28.999999999999996, of which the whole part is 28, and
65 / (65 / 15) is 15.000000000000002, of which the ceiling is 16. Here products and
quotients are fractions, exact but for one thing: those as near to a multiple of 1/2 as
the rounding of the float allows are that multiple. `math.floor`, `math.ceil` and
`round` (halves to the even number) then give the count that was meant.
"""

from fractions import Fraction
from numbers import Rational
from typing import Any

import jax.numpy as jnp
import numpy as np


def part_of(total: int, fraction: Any) -> Fraction:
    """Return `fraction` of `total`, for the fraction that the number stands for.

    One that was computed may be off by a unit in the last place of 1: `1 - 0.9` is
    taken for 1/10.

    Example:
        >>> part_of(100, 0.29), part_of(784, 1 / 784), part_of(81, 0.5)
        (Fraction(29, 1), Fraction(1, 1), Fraction(81, 2))
    """
    return _as_meant(total * _exact(fraction), total * _epsilon(fraction))


def shrunk(total: int, factor: Any) -> Fraction:
    """Return `total` / `factor`, for the positive factor that the number stands for.

    Example:
        >>> shrunk(65, 65 / 15), shrunk(10, 4)
        (Fraction(15, 1), Fraction(5, 2))
    """
    quotient = total / _exact(factor)
    return _as_meant(quotient, 2 * quotient * _epsilon(factor))


def rounded_quotients(numerators: np.ndarray, denominator: int) -> np.ndarray:
    """Return integers (n,) over a positive one, each rounded, halves to the even one.

    Example:
        >>> rounded_quotients(np.array([1, 3, 5, 7]), 2).tolist()
        [0, 2, 2, 4]
    """
    whole, rest = np.divmod(numerators, denominator)
    above = 2 * rest - denominator
    return whole + ((above > 0) | ((above == 0) & (whole % 2 == 1)))


def _as_meant(value: Fraction, slack: Fraction) -> Fraction:
    nearest = Fraction(round(2 * value), 2)
    return nearest if abs(value - nearest) <= slack else value


def _exact(number: Any) -> Fraction:
    return Fraction(number if isinstance(number, Rational) else float(number))


def _epsilon(number: Any) -> Fraction:
    """Return the distance of 1 to the next number of its type; 0 for exact types."""
    dtype = np.asarray(number).dtype
    is_float = jnp.issubdtype(dtype, jnp.floating)
    return Fraction(float(jnp.finfo(dtype).eps) if is_float else 0)
