"""Array transforms between PyTorch's layouts and this library's, each with its inverse.

A transform is a name in `TRANSFORMS`; rules list names, applied in order. They act on
NumPy arrays and, to check shapes without data, on JAX's abstract values.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Leaf(NamedTuple):
    """A parameter of the network: where it is and what it must look like."""

    path: str
    shape: tuple[int, ...]
    dtype: Any
    heads: int = 1  # of the attention block that owns it


Step = Callable[[Any, Leaf], Any]


class Transform(NamedTuple):
    """From a tensor of the file to a parameter, and back."""

    forward: Step
    inverse: Step


def _transpose(array: Any, leaf: Leaf) -> Any:
    return array.transpose()


def _squeeze(axes: int) -> Transform:
    """Drop trailing axes of length one (kernels of 1 x 1 convolutions)."""
    return Transform(
        forward=lambda array, leaf: array.reshape(array.shape[: array.ndim - axes]),
        inverse=lambda array, leaf: array.reshape(array.shape + (1,) * axes),
    )


def _qkv_order(axes: tuple[int, int, int]) -> Transform:
    """Reorder the first axis to ({q, k, v}, head, width).

    `axes` says where q/k/v, head and width stand in the file.
    """
    back = tuple(axes.index(i) for i in range(3))

    def sizes(array: Any, leaf: Leaf) -> tuple[int, int, int]:
        return 3, leaf.heads, array.shape[0] // (3 * leaf.heads)

    def forward(array: Any, leaf: Leaf) -> Any:
        have = sizes(array, leaf)
        split = array.reshape(*(have[i] for i in back), *array.shape[1:])
        rest = range(3, split.ndim)
        return split.transpose(*axes, *rest).reshape(array.shape)

    def inverse(array: Any, leaf: Leaf) -> Any:
        split = array.reshape(*sizes(array, leaf), *array.shape[1:])
        rest = range(3, split.ndim)
        return split.transpose(*back, *rest).reshape(array.shape)

    return Transform(forward, inverse)


TRANSFORMS: dict[str, Transform] = {
    "transpose": Transform(_transpose, _transpose),
    # (out, in, rows, columns) -> (rows, columns, in, out)
    "conv": Transform(
        forward=lambda array, leaf: array.transpose(2, 3, 1, 0),
        inverse=lambda array, leaf: array.transpose(3, 2, 0, 1),
    ),
    "squeeze1": _squeeze(1),
    "squeeze2": _squeeze(2),
    "head_qkv_width": _qkv_order((1, 0, 2)),
    "head_width_qkv": _qkv_order((2, 0, 1)),
}


def forward(names: Sequence[str], array: Any, leaf: Leaf) -> Any:
    """Apply the named transforms in order: tensor of the file -> parameter."""
    for name in names:
        array = TRANSFORMS[name].forward(array, leaf)
    return array


def inverse(names: Sequence[str], array: Any, leaf: Leaf) -> Any:
    """Undo `forward`: parameter -> tensor of the file."""
    for name in reversed(names):
        array = TRANSFORMS[name].inverse(array, leaf)
    return array
