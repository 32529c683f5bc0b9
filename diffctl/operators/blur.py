"""Blur: y = k * x in every channel, a true convolution with one kernel.

    y[i] = sum_j k[j] x[i + c - j],     c = size // 2 the kernel's origin,

with one of several continuations of x beyond its border. Codes built on neural-network
layers correlate instead; flip the kernel to reproduce them (symmetric ones agree).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.operators.base import LinearOperator, SpectralOperator
from diffctl.operators.checks import require, require_image_shape
from diffctl.operators.fourier import fourier, hartley, inverse_fourier
from diffctl.operators.rules import damped
from diffctl.operators.separable import Separable
from diffctl.pytree import pytree_dataclass, static

Padding = Callable[[jax.Array, tuple[tuple[int, int], ...]], jax.Array]


def reflect_padding(x: jax.Array, widths: tuple[tuple[int, int], ...]) -> jax.Array:
    """Continue `x` by reflection about its border pixels (... 2 1 0 1 2 ...)."""
    return jnp.pad(x, widths, mode="reflect")


def zero_padding(x: jax.Array, widths: tuple[tuple[int, int], ...]) -> jax.Array:
    """Continue `x` by zeros, which is mid-grey on the [-1, 1] scale."""
    return jnp.pad(x, widths)


@pytree_dataclass
class Blur(LinearOperator):
    """Convolution with any kernel and any linear continuation of the image.

    Applied by FFT on the padded image, so the cost hardly depends on the kernel. No
    closed-form pseudo-inverse: use `CircularBlur`, or `SeparableBlur` for kernels that
    are products, where a singular system is needed.
    """

    kernel: jax.Array  # (kh, kw)
    shape: tuple[int, ...] = static()
    padding: Padding = static(default=reflect_padding)

    @classmethod
    def create(
        cls,
        shape: tuple[int, int, int],
        kernel: jax.Array,
        padding: Padding = reflect_padding,
    ) -> "Blur":
        """Check shapes; `padding` may be one's own linear continuation."""
        require_image_shape(shape)
        return cls(kernel=_checked_kernel(kernel), shape=shape, padding=padding)

    @property
    def bound(self) -> jax.Array:
        return jnp.sum(jnp.abs(self.kernel))

    def __call__(self, x: jax.Array) -> jax.Array:
        sizes = self.kernel.shape
        padded = self.padding(x, (*(_border(k) for k in sizes), (0, 0)))
        spectrum = jnp.fft.rfft2(padded, axes=(0, 1))
        transfer = jnp.fft.rfft2(self.kernel.astype(x.dtype), s=padded.shape[:2])
        full = jnp.fft.irfft2(
            spectrum * transfer[..., None], s=padded.shape[:2], axes=(0, 1)
        )
        # The first size - 1 outputs mix both ends of the padded image.
        return full[sizes[0] - 1 :, sizes[1] - 1 :]


@pytree_dataclass
class CircularBlur(SpectralOperator):
    """Convolution with any kernel, the image continued periodically.

    With the transfer function h = |h| e^{i phi} (the Fourier transform of the kernel),
    s = |h|, V is the Hartley basis and U = P V, where P is the real all-pass filter
    with transfer function e^{i phi}; both are orthogonal. All channels
    have the same singular values, interleaved as in the image.
    """

    kernel: jax.Array  # (kh, kw), any size; wraps around small images
    shape: tuple[int, ...] = static()

    @classmethod
    def create(cls, shape: tuple[int, int, int], kernel: jax.Array) -> "CircularBlur":
        """Check shapes."""
        require_image_shape(shape)
        return cls(kernel=_checked_kernel(kernel), shape=shape)

    @property
    def bound(self) -> jax.Array:
        return jnp.sum(jnp.abs(self.kernel))

    @property
    def singular_values(self) -> jax.Array:
        return jnp.broadcast_to(jnp.abs(self._transfer()), self.shape).ravel()

    def __call__(self, x: jax.Array) -> jax.Array:
        return _filter(x, self._transfer())

    def adjoint(self, y: jax.Array) -> jax.Array:
        return _filter(y, jnp.conj(self._transfer()))

    def damped_pinv(self, y: jax.Array, damping: jax.typing.ArrayLike) -> jax.Array:
        # By h: |h|, the singular value, has no derivative where h is 0.
        return _filter(y, damped(self._transfer(), jnp.ones((), y.dtype), damping))

    def v(self, z: jax.Array) -> jax.Array:
        return hartley(z.reshape(self.shape))

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        return hartley(x).ravel()

    def u(self, z: jax.Array) -> jax.Array:
        return _filter(self.v(z), self._phase())

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        return self.v_adjoint(_filter(y, jnp.conj(self._phase())))

    def _transfer(self) -> jax.Array:
        """Return h (H, W, 1), complex."""
        rows, cols = (
            (jnp.arange(k) - k // 2) % n
            for k, n in zip(self.kernel.shape, self.shape[:2], strict=True)
        )
        point_spread = jnp.zeros(self.shape[:2], self.kernel.dtype)
        point_spread = point_spread.at[rows[:, None], cols[None, :]].add(self.kernel)
        return jnp.fft.fft2(point_spread)[..., None]

    def _phase(self) -> jax.Array:
        transfer = self._transfer()
        size = jnp.abs(transfer)
        return jnp.where(size > 0, transfer / jnp.where(size > 0, size, 1), 1)


@pytree_dataclass
class SeparableBlur(Separable):
    """Convolution with the product of two 1-D kernels, any continuation, with SVD."""

    @classmethod
    def create(
        cls,
        shape: tuple[int, int, int],
        row_taps: jax.Array,
        col_taps: jax.Array,
        padding: Padding = reflect_padding,
    ) -> "SeparableBlur":
        """Prepare the two 1-D convolution matrices and their SVDs.

        Args:
            shape: (height, width, channels).
            row_taps: kernel along the height, (kh,).
            col_taps: kernel along the width, (kw,).
            padding: `reflect_padding`, `zero_padding`, or one's own.
        """
        require_image_shape(shape)
        taps = [np.asarray(t, np.float64) for t in (row_taps, col_taps)]
        require(
            all(t.ndim == 1 and t.size > 0 for t in taps),
            f"row_taps and col_taps have shapes {taps[0].shape} and {taps[1].shape}; "
            "expected one axis each. Blur takes kernels with two.",
        )
        rows, cols = (
            _convolution_matrix(n, t, padding)
            for n, t in zip(shape[:2], taps, strict=True)
        )
        return cls.from_matrices(shape, rows, cols)


def _checked_kernel(kernel: jax.Array) -> jax.Array:
    kernel = jnp.asarray(kernel)
    require(
        kernel.ndim == 2 and kernel.size > 0,
        f"the kernel has shape {kernel.shape}; expected (height, width): one kernel, "
        "applied to every channel.",
    )
    require(
        bool(jnp.issubdtype(kernel.dtype, jnp.floating)),
        f"the kernel has dtype {kernel.dtype}; expected a floating-point type. Divide "
        "it by its sum.",
    )
    return kernel


def _border(taps: int) -> tuple[int, int]:
    return taps - 1 - taps // 2, taps // 2


def _filter(x: jax.Array, transfer: jax.Array) -> jax.Array:
    spectrum = fourier(x)
    return inverse_fourier(transfer.astype(spectrum.dtype) * spectrum).real


def _convolution_matrix(size: int, taps: np.ndarray, padding: Padding) -> np.ndarray:
    """Return the (size, size) matrix of a 1-D convolution with continuation."""
    continued = np.asarray(padding(jnp.eye(size), (_border(taps.size), (0, 0))))
    shifts = (continued[j : j + size] for j in range(taps.size))
    return sum(w * rows for w, rows in zip(taps[::-1], shifts, strict=True))
