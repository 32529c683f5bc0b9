"""Subsampled Fourier measurements, and the real Fourier basis they share with blurs.

All transforms are orthonormal, with frequency zero at index [0, 0]. Sampling masks
drawn with the low frequencies in the middle go through `jnp.fft.ifftshift` first.
"""

import jax
import jax.numpy as jnp

from diffctl.numerics.concrete import any_concrete
from diffctl.numerics.counts import part_of
from diffctl.numerics.safe import safe_divide, safe_sqrt
from diffctl.operators.base import SpectralOperator
from diffctl.operators.checks import require, require_image_shape
from diffctl.pytree import pytree_dataclass, static


def hartley(x: jax.Array) -> jax.Array:
    """Return the 2-D Hartley transform Re F x - Im F x over the first two axes.

    Orthonormal, symmetric, its own inverse, and real. The functions of a frequency and
    its mirror image span the same space as in the Fourier basis, so it diagonalises
    every real convolution with an even kernel.
    """
    spectrum = fourier(x)
    return spectrum.real - spectrum.imag


def fourier(x: jax.Array) -> jax.Array:
    """Return the orthonormal 2-D Fourier transform over the first two axes."""
    return jnp.fft.fft2(x, axes=(0, 1), norm="ortho")


def inverse_fourier(x: jax.Array) -> jax.Array:
    """Return the inverse of `fourier`."""
    return jnp.fft.ifft2(x, axes=(0, 1), norm="ortho")


@pytree_dataclass
class SubsampledFourier(SpectralOperator):
    """y = mask * F x for a real image; y (H, W, C) complex, zero where not sampled.

    Over the reals, A^H A is diagonal in the Hartley basis with entries
    (mask[k]^2 + mask[-k]^2) / 2: a coefficient and its mirror image carry the same
    information. Singular values are therefore 1, sqrt(1/2) or 0.
    """

    mask: jax.Array  # (H, W, 1), 1 sampled, 0 not
    shape: tuple[int, ...] = static()

    @classmethod
    def from_array(
        cls, mask: jax.Array, shape: tuple[int, int, int]
    ) -> "SubsampledFourier":
        """Sample the frequencies where `mask` (H, W) is true; [0, 0] is the mean."""
        require_image_shape(shape)
        return cls(mask=_frequency_mask(mask, shape), shape=shape)

    @property
    def singular_values(self) -> jax.Array:
        return safe_sqrt(self._squared_values())

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.mask.astype(x.dtype) * fourier(x)

    def adjoint(self, y: jax.Array) -> jax.Array:
        return inverse_fourier(self.mask.astype(y.real.dtype) * y).real

    def restrict(self, y: jax.Array) -> jax.Array:
        return jnp.where(self.mask > 0, y, 0)

    def num_observed(self) -> jax.Array:
        return 2 * self.shape[2] * jnp.sum(self.mask)

    def damped_pinv(self, y: jax.Array, damping: jax.typing.ArrayLike) -> jax.Array:
        # By s^2, which unlike s has a derivative in the mask where nothing is sampled.
        z = self.v_adjoint(self.adjoint(y))
        return self.v(safe_divide(z, self._squared_values().astype(z.dtype) + damping))

    def v(self, z: jax.Array) -> jax.Array:
        return hartley(z.reshape(self.shape))

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        return hartley(x).ravel()

    def u(self, z: jax.Array) -> jax.Array:
        return self(self.v(self._divided(z)))

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        return self._divided(self.v_adjoint(self.adjoint(y)))

    def _squared_values(self) -> jax.Array:
        power = self.mask**2
        mirrored = jnp.roll(jnp.flip(power, (0, 1)), (1, 1), (0, 1))
        return jnp.broadcast_to((power + mirrored) / 2, self.shape).ravel()

    def _divided(self, z: jax.Array) -> jax.Array:
        s = self.singular_values.astype(z.dtype)
        return jnp.where(s > 0, z / jnp.where(s > 0, s, 1), 0)


@pytree_dataclass
class SubsampledComplexFourier(SpectralOperator):
    """y = mask * F (x[..., 0] + i x[..., 1]): Fourier samples of a complex image.

    The signal is the real array (H, W, 2) of real and imaginary parts, y is (H, W),
    complex. Singular values are the entries of the mask, each for two real numbers.
    """

    mask: jax.Array  # (H, W), 1 sampled, 0 not
    shape: tuple[int, ...] = static()

    @classmethod
    def from_array(
        cls, mask: jax.Array, shape: tuple[int, int, int]
    ) -> "SubsampledComplexFourier":
        """Sample the frequencies where `mask` (H, W) is true; [0, 0] is the mean."""
        require_image_shape(shape)
        require(
            shape[2] == 2,
            f"shape is {shape}; expected (height, width, 2): the real and imaginary "
            "parts of a complex image. SubsampledFourier measures real images.",
        )
        return cls(mask=_frequency_mask(mask, shape)[..., 0], shape=shape)

    @property
    def singular_values(self) -> jax.Array:
        return jnp.repeat(self.mask.ravel(), 2)

    def restrict(self, y: jax.Array) -> jax.Array:
        return jnp.where(self.mask > 0, y, 0)

    def num_observed(self) -> jax.Array:
        return 2 * jnp.sum(self.mask)

    def v(self, z: jax.Array) -> jax.Array:
        return _as_pair(inverse_fourier(_as_complex(z.reshape(self.shape))))

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        return _as_pair(fourier(_as_complex(x))).ravel()

    def u(self, z: jax.Array) -> jax.Array:
        return _as_complex(z.reshape(self.shape))

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        return _as_pair(y).ravel()


def column_mask(
    key: jax.Array,
    height: int,
    width: int,
    *,
    keep_fraction: float,
    center_fraction: float = 0.08,
) -> jax.Array:
    """Draw a mask (height, width) of whole columns: Cartesian undersampling.

    The lowest `center_fraction` of the column frequencies are always sampled, the rest
    uniformly at random, round(keep_fraction * width) columns together (halves to the
    even number).
    """
    require(
        0 <= center_fraction <= keep_fraction <= 1,
        f"center_fraction is {center_fraction} and keep_fraction {keep_fraction}; "
        "expected 0 <= center_fraction <= keep_fraction <= 1.",
    )
    frequency = jnp.abs(jnp.fft.fftfreq(width))
    score = jax.random.uniform(key, (width,)) + 1
    num_center, num_kept = (
        round(part_of(width, fraction)) for fraction in (center_fraction, keep_fraction)
    )
    in_center = jnp.argsort(jnp.argsort(frequency)) < num_center
    rank = jnp.argsort(jnp.argsort(jnp.where(in_center, frequency, score)))
    columns = jnp.where(rank < num_kept, 1.0, 0.0)
    return jnp.broadcast_to(columns[None, :], (height, width))


def _frequency_mask(mask: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    given, mask = mask, jnp.asarray(mask)
    require(
        mask.shape == shape[:2],
        f"the sampling mask has shape {mask.shape}; expected {shape[:2]}, one entry "
        "per frequency, shared by the channels.",
    )
    require(
        not any_concrete(lambda entries: (entries != 0) & (entries != 1), given),
        "the sampling mask has entries other than 0 and 1; expected 1 for sampled "
        "frequencies and 0 for the others.",
    )
    return jnp.where(mask > 0, 1.0, 0.0)[..., None]


def _as_complex(pair: jax.Array) -> jax.Array:
    return jax.lax.complex(pair[..., 0], pair[..., 1])


def _as_pair(values: jax.Array) -> jax.Array:
    return jnp.stack([values.real, values.imag], axis=-1)
