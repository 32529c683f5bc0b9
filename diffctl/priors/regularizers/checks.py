"""Conditions that the factories of regularisers ask of their arguments."""

from typing import Any

import numpy as np

from diffctl.numerics.concrete import is_known
from diffctl.numerics.precision import as_computed


def check_weight(weight: Any) -> None:
    """Raise ValueError unless a weight, if it is a number, is positive and finite.

    It has to be so in the precision of the computation, too.
    """
    if not is_known(weight):
        return
    computed = as_computed(weight)
    if not 0 < computed < np.inf:
        raise ValueError(
            f"weight is {weight}, {computed} in {computed.dtype}; expected a positive "
            "finite number, the factor of the regulariser in "
            "-log p(y | x) + weight * R(x)."
        )


def check_axes(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    """Raise ValueError unless `axes` are different axes of a signal of `shape`."""
    valid = all(0 <= axis < len(shape) for axis in axes)
    if not valid or not axes or len(set(axes)) < len(axes):
        raise ValueError(
            f"axes are {axes}; expected different axes of a signal of shape {shape}, "
            f"0 to {len(shape) - 1}; images are (height, width, channels)."
        )


def check_image(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `shape` is (height, width, channels)."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(
            f"shape is {shape}; expected (height, width, channels) of one image."
        )
