"""Shrinking of entries, of groups and of singular values, with finite derivatives.

    entries          sign(z) max(|z| - t, 0)
    groups           z max(|z| - t, 0) / |z|,  |z| over the axes of a group
    singular values  U diag(f(s)) V^T          for M = U diag(s) V^T

The derivative of the last, for f(0) = 0 and H turned to H' = U^T H V, is

    U (a o (H' + H'^T) / 2 + b o (H' - H'^T) / 2) V^T
      + (I - U U^T) H V diag(f / s) V^T + U diag(f / s) U^T H (I - V V^T),
    a_ij = (f_i - f_j) / (s_i - s_j),  b_ij = (f_i + f_j) / (s_i + s_j)

with a_ij = f'(s_i) for equal singular values, where the derivative of an SVD does not
exist, and with f'(0) for the quotients 0 / 0.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.safe import binary_scale, safe_divide, safe_sqrt

# (s, *parameters) -> f(s), entry by entry, with f(0) = 0.
Rule = Callable[..., jax.Array]
_HIGHEST = jax.lax.Precision.HIGHEST


def soft_threshold(z: jax.Array, threshold: jax.typing.ArrayLike) -> jax.Array:
    """Move every entry towards zero by `threshold` >= 0, and no further.

    For a threshold of 0 this is the identity, with its derivative also at 0.
    """
    return jnp.where(jnp.abs(z) < threshold, 0, z - jnp.sign(z) * threshold)


def group_norms(z: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Return the norms over `axes`, which are kept with length 1; () for |z|."""
    unit = binary_scale(z)
    return unit * safe_sqrt(jnp.sum((z / unit) ** 2, axis=axes, keepdims=True))


def group_threshold(
    z: jax.Array, threshold: jax.typing.ArrayLike, axes: tuple[int, ...]
) -> jax.Array:
    """Shorten every group by `threshold` >= 0, and no further.

    A group is what is left along `axes`; without axes, each entry is one. For a
    threshold of 0 this is the identity, with its derivative also at 0.
    """
    norms = group_norms(z, axes)
    unshortened = jnp.where(jnp.asarray(threshold) > 0, 0, 1)
    return z * safe_divide(jnp.maximum(norms - threshold, 0), norms, unshortened)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def map_singular_values(rule: Rule, matrix: jax.Array, *parameters: Any) -> jax.Array:
    """Return U diag(f(s)) V^T, f(s) = rule(s, *parameters); `matrix` (m, n), real.

    Derivatives of first order are exact and finite, also for repeated and for zero
    singular values.
    """
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    return _matmul(u * rule(s, *parameters)[None, :], vt)


@map_singular_values.defjvp
def _map_singular_values_jvp(
    rule: Rule, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    (matrix, *parameters), (change, *changes) = primals, tangents
    u, s, vt = jnp.linalg.svd(matrix, full_matrices=False)
    f, shift = jax.jvp(lambda *p: rule(s, *p), tuple(parameters), tuple(changes))
    _, slope = jax.jvp(lambda s: rule(s, *parameters), (s,), (jnp.ones_like(s),))
    gap = s[:, None] - s[None, :]
    # Closer than this, the difference quotient is rounding.
    tiny = jnp.sqrt(jnp.finfo(s.dtype).eps) * jnp.max(s, initial=0.0)
    apart = jnp.abs(gap) > tiny
    slopes = (slope[:, None] + slope[None, :]) / 2
    quotient = (f[:, None] - f[None, :]) / jnp.where(apart, gap, 1)
    a = jnp.where(apart, quotient, slopes)
    b = safe_divide(f[:, None] + f[None, :], s[:, None] + s[None, :], slopes)
    turned = _matmul(_matmul(u.T, change), vt.T)
    inside = a * (turned + turned.T) / 2 + b * (turned - turned.T) / 2
    inside = inside + jnp.diag(shift)
    ratio = safe_divide(f, s, slope)
    below = _matmul(change, vt.T) - _matmul(u, turned)  # (I - U U^T) H V
    right = _matmul(u.T, change) - _matmul(turned, vt)  # U^T H (I - V V^T)
    tangent = (
        _matmul(_matmul(u, inside), vt)
        + _matmul(below * ratio[None, :], vt)
        + _matmul(u, ratio[:, None] * right)
    )
    return _matmul(u * f[None, :], vt), tangent


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=_HIGHEST)
