"""Two-dimensional convolution whose derivatives stay on XLA's fast paths.

    out[n, i, j, d] = sum_{a, b, c} x[n, i s + a - p, j s + b - p, c] kernel[a, b, c, d]

The transpose rule of `lax.conv_general_dilated` labels the kernel of the result in a
way that XLA:CPU does not canonicalise inside a loop, where it then runs 20 to 30 times
slower. Here the input cotangent is written as *another forward convolution* (kernel
flipped in space, channel axes exchanged, strides undone by interior padding) or, on CPU
where the weights far outnumber the pixels, as one matrix product that leaves the kernel
where it is; and the kernel cotangent, on CPU, as one product per tap. All are ordinary
differentiable JAX, so jit, vmap, jvp, vjp, scan and checkpoint compose.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

Padding = tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_MOST_TAPS = 25  # beyond 5x5 kernels one product per tap stops paying
_MANY_WEIGHTS = 2**20  # from here on XLA:CPU copies a kernel slower than it uses it


def conv2d(
    x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding | int = 0
) -> jax.Array:
    """Correlate one image with a kernel.

    Args:
        x: image, (H, W, C).
        kernel: taps, (kh, kw, C, D), of the dtype of `x`.
        stride: the same in both directions, at least 1.
        padding: zeros before and after each spatial axis; an integer means the same on
            all four sides.

    Returns:
        (H', W', D) with `H' = (H + top + bottom - kh) // stride + 1`.
    """
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    if kernel.shape[:2] == (1, 1) and stride == 1 and padding == ((0, 0), (0, 0)):
        return x @ kernel[0, 0]
    return _conv_p.bind(x[None], kernel, stride=stride, padding=padding)[0]


def _lax_conv(
    x: jax.Array, kernel: jax.Array, *, stride: int, padding: Padding
) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT
    )


def _output_aval(x: Any, kernel: Any, *, stride: int, padding: Padding) -> Any:
    out = jax.eval_shape(partial(_lax_conv, stride=stride, padding=padding), x, kernel)
    return jax.core.ShapedArray(out.shape, out.dtype)


def _transpose_input(
    ct: jax.Array, x: Any, kernel: jax.Array, *, stride: int, padding: Padding
) -> jax.Array:
    extent = x.aval.shape[1:3]

    def as_conv(ct: jax.Array, kernel: jax.Array) -> jax.Array:
        return _as_forward_conv(ct, kernel, extent, stride, padding)

    def as_product(ct: jax.Array, kernel: jax.Array) -> jax.Array:
        return _as_one_product(ct, kernel, extent, stride, padding)

    if not _weights_dominate(ct, kernel):
        return as_conv(ct, kernel)
    return lax.platform_dependent(ct, kernel, cpu=as_product, default=as_conv)


def _weights_dominate(ct: jax.Array, kernel: jax.Array) -> bool:
    return kernel.size > max(_MANY_WEIGHTS, 4 * ct.size)


def _as_forward_conv(
    ct: jax.Array,
    kernel: jax.Array,
    extent: tuple[int, int],
    stride: int,
    padding: Padding,
) -> jax.Array:
    taps = kernel.shape[:2]
    spread = [(0, 0, stride - 1)] * 2
    ct = lax.pad(ct, jnp.zeros((), ct.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    before = [k - 1 - lo for k, (lo, _) in zip(taps, padding, strict=True)]
    after = [
        size + k - 1 - have - lo
        for size, k, have, lo in zip(extent, taps, ct.shape[1:3], before, strict=True)
    ]
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    sides = ((before[0], after[0]), (before[1], after[1]))
    return _conv_p.bind(ct, flipped, stride=1, padding=sides)


def _as_one_product(
    ct: jax.Array,
    kernel: jax.Array,
    extent: tuple[int, int],
    stride: int,
    padding: Padding,
) -> jax.Array:
    """Multiply by all taps where they lie in memory, then put each in its place."""
    rows, columns = (a.reshape(-1, a.shape[-1]) for a in (ct, kernel))
    contraction = (((1,), (1,)), ((), ()))
    products = lax.dot_general(rows, columns, contraction)
    products = products.reshape(*ct.shape[:3], *kernel.shape[:3])
    zero = jnp.zeros((), products.dtype)

    def place(axis: int, tap: int) -> tuple[int, int, int]:
        low = tap - padding[axis][0]
        reach = stride * (ct.shape[axis + 1] - 1) + 1
        return low, extent[axis] - low - reach, stride - 1

    def placed(tap: tuple[int, ...]) -> jax.Array:
        a, b = tap
        sides = [(0, 0, 0), place(0, a), place(1, b), (0, 0, 0)]
        return lax.pad(products[:, :, :, a, b], zero, sides)

    return reduce(jnp.add, map(placed, np.ndindex(kernel.shape[:2])))


def _transpose_kernel(
    ct: jax.Array, x: jax.Array, kernel: Any, *, stride: int, padding: Padding
) -> jax.Array:
    kh, kw = kernel.aval.shape[:2]

    def one_product_per_tap(ct: jax.Array, x: jax.Array) -> jax.Array:
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *_sides(padding), (0, 0, 0)])
        rows, columns = ct.shape[1:3]
        # (D, N H' W') first: XLA:CPU multiplies a transposed left factor slowly.
        ct = ct.reshape(-1, ct.shape[-1]).T

        def tap(a: int, b: int) -> jax.Array:
            stop = (a + stride * (rows - 1) + 1, b + stride * (columns - 1) + 1)
            window = x[:, a : stop[0] : stride, b : stop[1] : stride]
            return (ct @ window.reshape(-1, window.shape[-1])).T

        return jnp.stack([jnp.stack([tap(a, b) for b in range(kw)]) for a in range(kh)])

    def by_lax(ct: jax.Array, x: jax.Array) -> jax.Array:
        conv = partial(_lax_conv, x, stride=stride, padding=padding)
        zeros = jnp.zeros(kernel.aval.shape, kernel.aval.dtype)
        return jax.vjp(conv, zeros)[1](ct)[0]

    if kh * kw > _MOST_TAPS:
        return by_lax(ct, x)
    return lax.platform_dependent(ct, x, cpu=one_product_per_tap, default=by_lax)


def _sides(padding: Padding) -> list[tuple[int, int, int]]:
    return [(lo, hi, 0) for lo, hi in padding]


def _batch(args: Any, dims: Any, *, stride: int, padding: Padding) -> tuple[Any, int]:
    (x, kernel), (x_dim, kernel_dim) = args, dims
    if kernel_dim is not None:
        conv = partial(_lax_conv, stride=stride, padding=padding)
        return jax.vmap(conv, in_axes=dims)(x, kernel), 0
    x = jnp.moveaxis(x, x_dim, 0)
    folded = x.reshape(-1, *x.shape[2:])
    out = _conv_p.bind(folded, kernel, stride=stride, padding=padding)
    return out.reshape(*x.shape[:2], *out.shape[1:]), 0


_conv_p = Primitive("diffctl_conv2d")
_conv_p.def_impl(jax.jit(_lax_conv, static_argnames=("stride", "padding")))
_conv_p.def_abstract_eval(_output_aval)
mlir.register_lowering(_conv_p, mlir.lower_fun(_lax_conv, multiple_results=False))
ad.defbilinear(_conv_p, _transpose_input, _transpose_kernel)
batching.primitive_batchers[_conv_p] = _batch
