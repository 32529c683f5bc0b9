"""The tasks by name, which the command line chooses from.

Sizes of blurs and boxes are those of DPS for 256 x 256 images, scaled with the image,
but never so small that there is nothing left to do.
"""

import math
from collections.abc import Mapping

import jax

from diffctl.cli.tasks import Guidance, Restoration, Task
from diffctl.operators import (
    BicubicSuperResolution,
    Blur,
    LinearOperator,
    Mask,
    SeparableBlur,
    gaussian_taps,
    motion_kernel,
)

Shape = tuple[int, int, int]


def _super_resolution(shape: Shape, key: jax.Array) -> LinearOperator:
    return BicubicSuperResolution.create(shape, 4)


def _random_inpainting(shape: Shape, key: jax.Array) -> LinearOperator:
    return Mask.random(key, shape, drop_fraction=0.92)


def _box_inpainting(shape: Shape, key: jax.Array) -> LinearOperator:
    size = min(shape[:2]) // 2
    top, left = ((n - size) // 2 for n in shape[:2])
    return Mask.from_bbox(shape, top=top, left=left, size=size)


def _gaussian_deblurring(shape: Shape, key: jax.Array) -> LinearOperator:
    std = max(3.0 * min(shape[:2]) / 256, 1.5)
    size = 2 * math.ceil(4 * std) + 1
    taps = gaussian_taps(min(size, _largest(shape)), std)
    return SeparableBlur.create(shape, taps, taps)


def _motion_deblurring(shape: Shape, key: jax.Array) -> LinearOperator:
    size = max(61 * min(shape[:2]) // 256, 9)
    return Blur.create(shape, motion_kernel(key, min(size, _largest(shape)), 0.5))


def _largest(shape: Shape) -> int:
    """Return the largest odd kernel whose reflection fits into the image."""
    return 2 * (min(shape[:2]) - 1) + 1


TASKS: Mapping[str, Task] = {
    "super_resolution_x4": Restoration(
        summary="4 times fewer pixels a side, bicubic", operator=_super_resolution
    ),
    "random_inpainting": Restoration(
        summary="92 % of the pixels dropped at random",
        operator=_random_inpainting,
        drawn=True,
    ),
    "box_inpainting": Restoration(
        summary="a box of half the image dropped, in the middle",
        operator=_box_inpainting,
    ),
    "gaussian_deblurring": Restoration(
        summary="Gaussian blur", operator=_gaussian_deblurring
    ),
    "motion_deblurring": Restoration(
        summary="blur of a camera that moves, drawn at random",
        operator=_motion_deblurring,
        drawn=True,
    ),
    "class_guidance": Guidance(summary="an image of a class, by the digit classifier"),
}
