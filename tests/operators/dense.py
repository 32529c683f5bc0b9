"""Operators as explicit real matrices, so that algebra can be checked by NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from diffctl.operators import LinearOperator, SpectralOperator


def as_real(tree: Any) -> jax.Array:
    """Flatten a measurement; complex entries become (real, imaginary) blocks."""

    def split(leaf: jax.Array) -> Any:
        return (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else leaf

    return ravel_pytree(jax.tree.map(split, tree))[0]


def from_real(vector: jax.Array, like: Any) -> Any:
    """Undo `as_real`; `like` holds shapes and dtypes."""

    def part(leaf: Any) -> jax.Array:
        return jnp.zeros(leaf.shape, jnp.finfo(leaf.dtype).dtype)

    def is_complex(leaf: Any) -> bool:
        return jnp.issubdtype(leaf.dtype, jnp.complexfloating)

    parts = jax.tree.map(lambda s: (part(s),) * (1 + is_complex(s)), like)
    blocks = ravel_pytree(parts)[1](vector)
    return jax.tree.map(
        lambda s, block: jax.lax.complex(*block) if is_complex(s) else block[0],
        like,
        blocks,
    )


def _columns(f: Any, size: int, dtype: Any) -> jax.Array:
    return jax.vmap(f, out_axes=1)(jnp.eye(size, dtype=dtype))


@jax.jit
def matrices(operator: LinearOperator) -> dict[str, jax.Array]:
    """Return every map of an operator as a matrix, by its columns."""
    x = jnp.zeros(operator.shape)
    y = jax.eval_shape(operator, x)
    n, m, dtype = x.size, as_real(operator(x)).size, x.dtype
    base = 0.3 * jnp.cos(jnp.arange(n, dtype=dtype)).reshape(x.shape)

    def tangent(e: jax.Array) -> jax.Array:
        return as_real(jax.jvp(operator, (base,), (e.reshape(x.shape),))[1])

    def pinv(e: jax.Array) -> jax.Array:
        return operator.pinv(from_real(e, y)).ravel()

    found = {
        "forward": _columns(lambda e: as_real(operator(e.reshape(x.shape))), n, dtype),
        "adjoint": _columns(
            lambda e: operator.adjoint(from_real(e, y)).ravel(), m, dtype
        ),
        "tangent": _columns(tangent, n, dtype),
        "pinv": _columns(pinv, m, dtype),
    }
    if isinstance(operator, SpectralOperator):
        k = operator.singular_values.size
        found |= {
            "s": operator.singular_values,
            "u": _columns(lambda e: as_real(operator.u(e)), k, dtype),
            "u_adjoint": _columns(
                lambda e: operator.u_adjoint(from_real(e, y)), m, dtype
            ),
            "v": _columns(lambda e: operator.v(e).ravel(), k, dtype),
            "v_adjoint": _columns(
                lambda e: operator.v_adjoint(e.reshape(x.shape)), n, dtype
            ),
        }
    return found
