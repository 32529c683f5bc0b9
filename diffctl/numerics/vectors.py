"""Pytrees as real vectors, for algorithms that need one orthonormal basis."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def to_vector(tree: Any) -> jax.Array:
    """Return the entries of a pytree as one real vector, (d,).

    Leaves follow each other in C order; a complex leaf gives its real parts, then its
    imaginary parts, so Euclidean inner products become Re <a, b>. Half precision is
    cast up to float32, since QR and its like do not exist below.
    """
    dtype = vector_dtype(tree)
    return jnp.concatenate(
        [part for leaf in jax.tree.leaves(tree) for part in _real_parts(leaf, dtype)]
    )


def from_vector(vector: jax.Array, like: Any) -> Any:
    """Return the pytree of the shapes and dtypes of `like` that `vector` stands for.

    Args:
        vector: (d,), as made by `to_vector`.
        like: pytree of arrays or `jax.ShapeDtypeStruct`s.
    """
    leaves, structure = jax.tree.flatten(like)
    rebuilt, start = [], 0
    for leaf in leaves:
        size = math.prod(leaf.shape)
        real = vector[start : start + size].reshape(leaf.shape)
        start += size
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            imaginary = vector[start : start + size].reshape(leaf.shape)
            start += size
            real = jax.lax.complex(real, imaginary)
        rebuilt.append(real.astype(leaf.dtype))
    return jax.tree.unflatten(structure, rebuilt)


def vectorized(f: Callable[[Any], Any], like: Any) -> Callable[[jax.Array], jax.Array]:
    """Return `f` as a function of real vectors; `like` is an argument of `f`."""
    return lambda vector: to_vector(f(from_vector(vector, like)))


def vector_size(like: Any) -> int:
    """Return d, the length of `to_vector(like)`."""
    return sum(
        math.prod(leaf.shape) * (1 + jnp.issubdtype(leaf.dtype, jnp.complexfloating))
        for leaf in jax.tree.leaves(like)
    )


def vector_dtype(like: Any) -> Any:
    """Return the dtype of `to_vector(like)`: float32 or, for double input, float64."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(like)]
    return jnp.finfo(jnp.result_type(jnp.float32, *dtypes)).dtype


def _real_parts(leaf: Any, dtype: Any) -> list[jax.Array]:
    flat = jnp.ravel(leaf)
    if jnp.iscomplexobj(flat):
        return [flat.real.astype(dtype), flat.imag.astype(dtype)]
    return [flat.astype(dtype)]
