"""Values from one formula, derivatives from another that is equal to it.

A factorisation may be the better way to a value and no way to its derivative. These
join the two.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

# (remainder, *arrays) -> array, linear in the remainder; it closes over no arrays.
Effect = Callable[..., jax.Array]


@jax.custom_jvp
def with_tangent_of(value: jax.Array, source: jax.Array) -> jax.Array:
    """Return `value`, with the derivatives of `source`, of the same shape and dtype.

    Compiled and not differentiated, `source` is not computed.
    """
    return value


@with_tangent_of.defjvp
def _with_tangent_of_jvp(
    primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    return with_tangent_of(*primals), tangents[1]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def tangent_only(effect: Effect, remainder: jax.Array, *args: jax.Array) -> jax.Array:
    """Return effect(remainder, *args) for a remainder that is 0 but has a tangent.

    Nothing is computed unless the remainder is differentiated, so that it costs
    nothing to carry one along.
    """
    shape = jax.eval_shape(effect, remainder, *args)
    # Formally a function of all: in a batch, zeros of which there is one for all are
    # at odds with tangents of which each has its own, inside `custom_linear_solve`.
    first = sum(jnp.real(x).ravel()[0] for x in (remainder, *args))
    zero = jnp.where(False, first, 0)
    return jnp.broadcast_to(zero.astype(shape.dtype), shape.shape)


def _tangent_only_jvp(
    effect: Effect, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, Any]:
    (remainder, *args), (change, *changes) = primals, tangents
    value = tangent_only(effect, remainder, *args)
    tangent = jnp.zeros_like(value)
    if not isinstance(change, SymbolicZero):
        tangent = effect(change, *args)
    moving = [i for i, dot in enumerate(changes) if not isinstance(dot, SymbolicZero)]
    if not moving:
        return value, tangent

    def mixed(remainder: jax.Array, *both: jax.Array) -> jax.Array:
        at, dots = both[: len(args)], both[len(args) :]

        def along(*moved: jax.Array) -> jax.Array:
            full = dict(enumerate(at)) | dict(zip(moving, moved, strict=True))
            return effect(remainder, *full.values())

        return jax.jvp(along, tuple(at[i] for i in moving), dots)[1]

    dots = [changes[i] for i in moving]
    # Not `tangent_only(mixed, ...)`: in reverse mode its value, which is 0, would stand
    # for it, and its derivative in the remainder be lost.
    return value, tangent + mixed(remainder, *args, *dots)


tangent_only.defjvp(_tangent_only_jvp, symbolic_zeros=True)


def tangent_product(remainder: jax.Array, vectors: jax.Array) -> jax.Array:
    """Return remainder @ vectors, as `tangent_only`; (m, n) @ (n,) or (n, k)."""
    return tangent_only(_product, remainder, vectors)


def _product(remainder: jax.Array, vectors: jax.Array) -> jax.Array:
    return jnp.matmul(remainder, vectors, precision="highest")
