"""Super-resolution: operators that make an image smaller."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.numerics.counts import shrunk
from diffctl.operators.base import SpectralOperator
from diffctl.operators.checks import require, require_image_shape
from diffctl.operators.separable import Separable
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class BlockAverage(SpectralOperator):
    """y = mean over blocks of factor x factor pixels ("sr" in DDRM and DDNM).

    All singular values are 1/factor; the pseudo-inverse repeats pixels.
    Source: Denoising Diffusion Restoration Models.
    """

    shape: tuple[int, ...] = static()
    factor: int = static()

    @classmethod
    def create(cls, shape: tuple[int, int, int], factor: int) -> "BlockAverage":
        """Check that `factor` divides height and width of `shape`."""
        require_image_shape(shape)
        require(
            isinstance(factor, int) and factor >= 1,
            f"factor is {factor!r}; expected an integer >= 1. "
            "BicubicSuperResolution accepts fractions.",
        )
        require(
            shape[0] % factor == 0 and shape[1] % factor == 0,
            f"factor={factor} does not divide an image of {shape[0]}x{shape[1]}. Crop "
            "the image or use BicubicSuperResolution.",
        )
        return cls(shape=shape, factor=factor)

    @property
    def bound(self) -> float:
        return 1.0

    @property
    def singular_values(self) -> jax.Array:
        height, width, channels = self._small
        return jnp.full((height * width * channels,), 1 / self.factor)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self._blocks(x).mean((1, 3))

    def v(self, z: jax.Array) -> jax.Array:
        small = z.reshape(self._small) / self.factor
        return small.repeat(self.factor, 0).repeat(self.factor, 1)

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        return self._blocks(x).sum((1, 3)).ravel() / self.factor

    def u(self, z: jax.Array) -> jax.Array:
        return z.reshape(self._small)

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        return y.ravel()

    @property
    def _small(self) -> tuple[int, int, int]:
        height, width, channels = self.shape
        return height // self.factor, width // self.factor, channels

    def _blocks(self, x: jax.Array) -> jax.Array:
        height, width, channels = self._small
        return x.reshape(height, self.factor, width, self.factor, channels)


@pytree_dataclass
class BicubicSuperResolution(Separable):
    """Antialiased bicubic downsampling, as in the released code of DPS.

    Output pixel p of ceil(n / factor) looks at the input coordinate
    c = factor p + (factor - 1) / 2 with weights kappa((c - j) / factor), scaled to sum
    to 1, where kappa is Keys' cubic with a = -1/2; the image is mirrored at its border,
    the border pixel included. 4 factor taps an axis.
    """

    @classmethod
    def create(
        cls, shape: tuple[int, int, int], factor: float
    ) -> "BicubicSuperResolution":
        """Prepare the two resampling matrices and their SVDs.

        Args:
            shape: (height, width, channels) of the large image.
            factor: of reduction, >= 1, not necessarily an integer.
        """
        require_image_shape(shape)
        require(
            1 <= factor <= min(shape[:2]),
            f"factor is {factor}; expected a number from 1 to {min(shape[:2])}, by "
            "which the image becomes smaller (4, not 1/4).",
        )
        rows, cols = (bicubic_matrix(n, factor) for n in shape[:2])
        return cls.from_matrices(shape, rows, cols)


def bicubic_matrix(size: int, factor: float) -> np.ndarray:
    """Return the matrix (ceil(size / factor), size) that shrinks a signal."""
    small = math.ceil(shrunk(size, factor))
    center = factor * np.arange(small) + (factor - 1) / 2
    reach = math.ceil(2 * factor) + 1
    taps = np.floor(center)[:, None].astype(int) + np.arange(-reach, reach + 1)
    weights = _keys_cubic((center[:, None] - taps) / factor)
    weights /= weights.sum(1, keepdims=True)
    # Mirroring with the border pixel repeated has the period 2 size.
    wrapped = taps % (2 * size)
    source = np.minimum(wrapped, 2 * size - 1 - wrapped)
    matrix = np.zeros((small, size))
    np.add.at(matrix, (np.arange(small)[:, None], source), weights)
    return matrix


def _keys_cubic(distance: np.ndarray) -> np.ndarray:
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
