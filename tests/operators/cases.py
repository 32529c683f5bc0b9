"""One small instance of every linear operator."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffctl import operators as ops

SHAPE = (6, 4, 2)
KEY = jax.random.key(7)


def _flip_and_weigh(x: jax.Array, weight: jax.Array) -> jax.Array:
    return weight.astype(x.dtype) * x[::-1].sum(-1)


def _random_matrix(rows: int, columns: int, rank: int) -> jax.Array:
    left, right = jax.random.split(KEY)
    return jax.random.normal(left, (rows, rank)) @ jax.random.normal(
        right, (rank, columns)
    )


def _complex_matrix() -> jax.Array:
    re, im = jax.random.normal(KEY, (2, 3, 8))
    return jax.lax.complex(re, im)


def _asymmetric_kernel(height: int, width: int) -> jax.Array:
    kernel = jax.random.uniform(KEY, (height, width))
    return kernel / kernel.sum()


def _frequency_mask(height: int, width: int) -> jax.Array:
    return jax.random.bernoulli(KEY, 0.5, (height, width))


def _small_reflect_blur() -> ops.LinearOperator:
    # Well conditioned, so that the iterative pseudo-inverse converges.
    kernel = jnp.zeros((3, 3)).at[1, 1].set(1.0) + 0.2 * _asymmetric_kernel(3, 3)
    return ops.Blur.create(SHAPE, kernel)


LINEAR: dict[str, Callable[[], ops.LinearOperator]] = {
    "identity": lambda: ops.Identity(shape=SHAPE),
    "mask-box": lambda: ops.Mask.from_bbox(SHAPE, top=1, left=1, size=(3, 2)),
    "mask-random": lambda: ops.Mask.random(KEY, SHAPE, drop_fraction=0.6),
    "mask-half": lambda: ops.Mask.half(SHAPE),
    "block-average": lambda: ops.BlockAverage.create(SHAPE, 2),
    "bicubic": lambda: ops.BicubicSuperResolution.create(SHAPE, 2),
    "bicubic-1.5": lambda: ops.BicubicSuperResolution.create((7, 5, 1), 1.5),
    "separable-blur": lambda: ops.SeparableBlur.create(
        SHAPE,
        jnp.array([0.2, 0.5, 0.3]),
        jnp.array([0.1, 0.2, 0.6, 0.1]),
        ops.zero_padding,
    ),
    "separable-blur-reflect": lambda: ops.SeparableBlur.create(
        (6, 5, 3), ops.gaussian_taps(5, 0.6), ops.gaussian_taps(9, 0.6)
    ),
    "circular-blur": lambda: ops.CircularBlur.create(SHAPE, _asymmetric_kernel(3, 2)),
    # Its transfer function is zero at the highest frequency of the rows.
    "circular-blur-singular": lambda: ops.CircularBlur.create(
        SHAPE, jnp.array([[0.25], [0.5], [0.25]])
    ),
    "circular-blur-wrapped": lambda: ops.CircularBlur.create(
        (4, 3, 1), _asymmetric_kernel(7, 5)
    ),
    "blur-reflect": _small_reflect_blur,
    "blur-zero": lambda: ops.Blur.create(
        (5, 4, 1), jnp.array([[0.0, 0.1], [0.1, 1.0]]), ops.zero_padding
    ),
    # Cuts off 16 of 48 directions.
    "truncated": lambda: ops.Truncated.create(
        ops.CircularBlur.create(SHAPE, _asymmetric_kernel(3, 2)), 0.2
    ),
    "truncated-complex": lambda: ops.Truncated.create(
        ops.DenseMatrix.from_array(_complex_matrix()), 0.5
    ),
    "dense-wide": lambda: ops.DenseMatrix.from_array(_random_matrix(5, 12, 5), (6, 2)),
    "dense-tall-rank-deficient": lambda: ops.DenseMatrix.from_array(
        _random_matrix(9, 6, 4)
    ),
    "dense-complex": lambda: ops.DenseMatrix.from_array(_complex_matrix()),
    "fourier": lambda: ops.SubsampledFourier.from_array(_frequency_mask(6, 4), SHAPE),
    "fourier-odd": lambda: ops.SubsampledFourier.from_array(
        _frequency_mask(5, 3), (5, 3, 1)
    ),
    "fourier-complex": lambda: ops.SubsampledComplexFourier.from_array(
        _frequency_mask(6, 4), SHAPE
    ),
    "function": lambda: ops.LinearFunctionOperator.create(
        _flip_and_weigh, SHAPE, jnp.linspace(0.5, 1.0, 4)[None, :]
    ),
    "composition": lambda: (
        ops.Mask.half((3, 2, 2))
        @ ops.BlockAverage.create(SHAPE, 2)
        @ _small_reflect_blur()
    ),
    "stack": lambda: ops.stack(
        ops.SubsampledFourier.from_array(_frequency_mask(6, 4), SHAPE),
        ops.BlockAverage.create(SHAPE, 2),
    ),
}
ITERATIVE_PINV = ("blur-reflect", "blur-zero", "function", "composition", "stack")
SPECTRAL = [name for name in LINEAR if name not in ITERATIVE_PINV]


@functools.cache
def _built(name: str, double: bool) -> ops.LinearOperator:
    return LINEAR[name]()


def build(name: str) -> ops.LinearOperator:
    """Return the instance in the float type that is the default where it is called."""
    return _built(name, jax.config.jax_enable_x64)
