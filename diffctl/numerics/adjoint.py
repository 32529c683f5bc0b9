"""Hermitian adjoints of linear functions, derived by transposition.

For a linear `f`, JAX gives the transpose `f^T` (no conjugation). The adjoint is

    f^H(y) = conj(f^T(conj(y))),        Re <f(x), y> = Re <x, f^H(y)>.

For a real signal and a complex measurement this is the real part of the complex
adjoint, which is the adjoint with respect to the real inner product.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.dtypes import default_float
from diffctl.numerics.varying import varying_alike


def adjoint_of(f: Callable[[Any], Any], x_spec: Any) -> Callable[[Any], Any]:
    """Return the Hermitian adjoint of a linear function.

    Args:
        f: linear map of one pytree of arrays to another; real or complex.
        x_spec: the argument of `f`, as arrays or `jax.ShapeDtypeStruct`s.

    Returns:
        The map y -> f^H(y). Arrays of `y` are cast to the dtypes that `f` returns.
        It raises `ValueError` if `y` has not the structure and shapes of `f(x)`.
    """
    out_spec = jax.eval_shape(f, x_spec)
    transpose = jax.linear_transpose(f, x_spec)

    def adjoint(y: Any) -> Any:
        _check_like(y, out_spec)
        cotangent = jax.tree.map(lambda s, leaf: _cast(leaf, s.dtype), out_spec, y)
        (x,) = transpose(jax.tree.map(jnp.conj, cotangent))
        return jax.tree.map(jnp.conj, x)

    return adjoint


def linear_adjoint(
    f: Callable[[jax.Array], Any], shape: tuple[int, ...], y: Any
) -> jax.Array:
    """Return f^H(y) for a linear map of a real signal.

    Args:
        f: linear map of an array of `shape` to an array or a pytree of arrays.
        shape: shape of the signal.
        y: of the structure of `f(x)`, real or complex.

    Returns:
        A real array of `shape`; float64 if `y` is of double precision, float32 if it is
        of single precision. Raises `ValueError` if `y` does not fit `f`.
    """
    dtype = jnp.result_type(*jax.tree.leaves(y))
    if not jnp.issubdtype(dtype, jnp.inexact):
        dtype = default_float()
    x, _ = varying_alike((jnp.zeros(shape, jnp.finfo(dtype).dtype), y))
    return adjoint_of(f, x)(y)


def _cast(leaf: Any, dtype: Any) -> jax.Array:
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.asarray(leaf).astype(dtype)
    # The real inner product sees only the real part where the map is real.
    return jnp.real(jnp.asarray(leaf)).astype(dtype)


def _check_like(y: Any, spec: Any) -> None:
    """Raise `ValueError` unless `y` has the structure and shapes of `spec`."""
    expected: Any = jax.tree.structure(spec)
    found: Any = jax.tree.structure(y)
    if expected != found:
        raise ValueError(
            f"the linear map returns {expected} but its adjoint got {found}; "
            "pass a measurement of the structure that the map returns."
        )
    for want, leaf in zip(jax.tree.leaves(spec), jax.tree.leaves(y), strict=True):
        if want.shape != jnp.shape(leaf):
            raise ValueError(
                f"the linear map returns shape {want.shape} but its adjoint got "
                f"{jnp.shape(leaf)}; pass one measurement, and batch by jax.vmap."
            )
