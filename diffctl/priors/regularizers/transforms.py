"""Orthonormal transforms of signals: cosines, blocks of cosines, Daubechies wavelets.

1. a level     x <- M_a x along every transformed axis a, M_a orthogonal
2. wavelets    every level acts on the corner where the level before left its averages:
               row k < n/2:  sum_j h_j x_{2k+j},  row n/2 + k:  sum_j (-1)^j h_{L-1-j}
               x_{2k+j}, the signal continued periodically
3. filters     h(z) = c (1 + z)^N prod_r (z - z_r), z_r the roots inside the circle of
               sum_{k<N} C(N-1+k, k) ((2 - z - 1/z) / 4)^k,  sum h = sqrt(2)
"""

import math
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.numerics.dtypes import default_float
from diffctl.pytree import pytree_dataclass

_MOST_MOMENTS = 10  # beyond, the roots of the polynomial lose digits
_SMALLEST_CORNER = 4
_HIGHEST = jax.lax.Precision.HIGHEST


@pytree_dataclass
class Orthonormal:
    """A transform Psi with Psi^T Psi = I, along the leading axes of a signal.

    Every level is applied as a matrix for each axis: n^3 operations for an image of
    n x n pixels, which are cheap below about a thousand.

    Args:
        levels: for every level, a matrix for each of the transformed axes, which are
            the first of the signal.
        detail: 1 for coefficients of detail and 0 for averages, which usually are not
            penalised; broadcasts against the signal.
    """

    levels: tuple[tuple[jax.Array, ...], ...]
    detail: jax.Array

    @classmethod
    def cosines(
        cls, shape: tuple[int, ...], *, num_axes: int = 2, block: int | None = None
    ) -> "Orthonormal":
        """Build the DCT-II of the first `num_axes` axes, of the whole or of blocks.

        Raises:
            ValueError: `block` does not divide the sizes, or there are fewer axes.
        """
        sizes = _sizes(shape, num_axes)
        lengths = [n if block is None else block for n in sizes]
        if any(b < 1 or n % b for n, b in zip(sizes, lengths, strict=True)):
            raise ValueError(
                f"block is {block}; expected a divisor of the sizes {sizes}."
            )
        pairs = list(zip(sizes, lengths, strict=True))
        matrices = [np.kron(np.eye(n // b), _cosine_matrix(b)) for n, b in pairs]
        constants = [np.arange(n) % b == 0 for n, b in pairs]
        return cls._build(shape, [matrices], constants)

    @classmethod
    def wavelets(
        cls,
        shape: tuple[int, ...],
        *,
        num_axes: int = 2,
        moments: int = 1,
        num_levels: int | None = None,
    ) -> "Orthonormal":
        """Build Daubechies' wavelets with `moments` vanishing moments; 1 is Haar's.

        Args:
            shape: of a signal.
            num_axes: the transform is along the first ones.
            moments: 1 to 10; filters have twice as many taps.
            num_levels: how often the averages are halved; by default as long as sizes
                are even and 4 or more are left, but at least once.

        Raises:
            ValueError: sizes that cannot be halved so often, or no such wavelet.
        """
        sizes = _sizes(shape, num_axes)
        if not 1 <= moments <= _MOST_MOMENTS:
            raise ValueError(f"moments is {moments}; expected 1 to {_MOST_MOMENTS}.")
        most = min(_halvings(n, 1) for n in sizes)
        if not most:
            raise ValueError(
                f"sizes {sizes} cannot be halved: expected even ones. Pad the signal."
            )
        if num_levels is None:
            num_levels = max(min(_halvings(n, _SMALLEST_CORNER) for n in sizes), 1)
        if not 1 <= num_levels <= most:
            raise ValueError(
                f"num_levels is {num_levels}; sizes {sizes} can be halved 1 to {most} "
                "times. Pad the signal to a multiple of a power of two."
            )
        taps = daubechies(moments)
        levels = [
            [_wavelet_matrix(n >> level, taps) for n in sizes]
            for level in range(num_levels)
        ]
        return cls._build(
            shape, levels, [np.arange(n) < n >> num_levels for n in sizes]
        )

    @classmethod
    def _build(
        cls, shape: tuple[int, ...], levels: Any, averages: list[np.ndarray]
    ) -> "Orthonormal":
        corner = reduce(np.logical_and.outer, averages)
        detail = np.reshape(~corner, corner.shape + (1,) * (len(shape) - corner.ndim))
        return cls(
            levels=tuple(tuple(jnp.asarray(m) for m in level) for level in levels),
            detail=jnp.asarray(detail, default_float()),
        )

    def forward(self, x: jax.Array) -> jax.Array:
        """Return Psi x, (*shape)."""
        for matrices in self.levels:
            x = _on_corner(x, matrices)
        return x

    def inverse(self, z: jax.Array) -> jax.Array:
        """Return Psi^T z, (*shape)."""
        for matrices in reversed(self.levels):
            z = _on_corner(z, tuple(matrix.T for matrix in matrices))
        return z


def daubechies(moments: int) -> np.ndarray:
    """Return the low-pass filter of 2 `moments` taps, eq (3)."""
    low = np.ones(1)
    for _ in range(moments):
        low = np.convolve(low, [1.0, 1.0])
    powers = [math.comb(moments - 1 + k, k) for k in range(moments)]
    for y in np.roots(powers[::-1]):
        # z + 1 / z = 2 - 4 y has one root inside the circle.
        pair = np.roots([1.0, 4 * y - 2, 1.0])
        low = np.convolve(low, [1.0, -pair[np.argmin(np.abs(pair))]])
    low = np.real(low)
    return low * math.sqrt(2) / np.sum(low)


def _sizes(shape: tuple[int, ...], num_axes: int) -> tuple[int, ...]:
    if not 1 <= num_axes <= len(shape):
        raise ValueError(
            f"num_axes is {num_axes}; a signal of shape {shape} has 1 to {len(shape)}."
        )
    return shape[:num_axes]


def _halvings(size: int, smallest: int) -> int:
    count = 0
    while size % 2 == 0 and size // 2 >= smallest:
        size, count = size // 2, count + 1
    return count


def _cosine_matrix(size: int) -> np.ndarray:
    rows, cols = np.arange(size)[:, None], np.arange(size)[None, :]
    matrix = math.sqrt(2 / size) * np.cos(math.pi / size * (cols + 0.5) * rows)
    matrix[0] /= math.sqrt(2)
    return matrix


def _wavelet_matrix(size: int, low: np.ndarray) -> np.ndarray:
    """Return one level, averages first; filters longer than the signal wrap around."""
    high = low[::-1] * (-1.0) ** np.arange(low.size)
    matrix = np.zeros((size, size))
    for k in range(size // 2):
        columns = (2 * k + np.arange(low.size)) % size
        np.add.at(matrix[k], columns, low)
        np.add.at(matrix[size // 2 + k], columns, high)
    return matrix


def _on_corner(x: jax.Array, matrices: tuple[jax.Array, ...]) -> jax.Array:
    corner = tuple(slice(matrix.shape[0]) for matrix in matrices)
    part = x[corner]
    for axis, matrix in enumerate(matrices):
        turned = jnp.tensordot(
            matrix.astype(x.dtype), part, axes=(1, axis), precision=_HIGHEST
        )
        part = jnp.moveaxis(turned, 0, axis)
    return x.at[corner].set(part)
