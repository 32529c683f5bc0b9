"""A linear operator given by its matrix."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.factors import distinct, rounding_level, singular_system
from diffctl.numerics.tangents import tangent_only, with_tangent_of
from diffctl.operators.base import SpectralOperator
from diffctl.operators.checks import require
from diffctl.operators.rules import JointRule, SpectralRule
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class DenseMatrix(SpectralOperator):
    """y = A vec(x), stored as the factors A = U diag(s) V^T.

    `x` is flattened in C order, y is (m,). For a complex A the factors are those of the
    real matrix of twice as many rows that maps x to the real and imaginary parts of y;
    U is then complex, with columns that are orthonormal under Re <., .>.

    Derivatives of A x, of its adjoint and of both inverses are those with respect to A
    whatever its singular values are; so are those of `to_measurement`, `to_signal` and
    `combined`. Where values coincide this holds of first derivatives in A only. U and V
    have derivatives only where singular values differ: elsewhere those of `u`, `v` and
    their adjoints with respect to A are NaN. The fields hold the factors as they are,
    and leave their change within a group of equal values out.
    """

    left: jax.Array  # U (m, k), k = min(m, n), or min(2m, n) if complex
    values: jax.Array  # s (k,)
    right: jax.Array  # V^T (k, n)
    # (m, n), A - U diag(s) V^T: zero, but with a tangent, what the factors leave out.
    # None for factors that are not those of a known A.
    remainder: jax.Array | None = None
    shape: tuple[int, ...] = static()

    @classmethod
    def from_array(
        cls, matrix: jax.Array, shape: tuple[int, ...] | None = None
    ) -> "DenseMatrix":
        """Factorise `matrix` (m, n), real or complex; n is the product of `shape`.

        `shape` defaults to (n,). Costs an SVD; traceable.
        """
        matrix = jnp.asarray(matrix)
        require(
            matrix.ndim == 2,
            f"the matrix has shape {matrix.shape}; expected two axes: measurements, "
            "entries of the signal.",
        )
        shape = matrix.shape[1:] if shape is None else shape
        require(
            math.prod(shape) == matrix.shape[1],
            f"the matrix has {matrix.shape[1]} columns but a signal of shape {shape} "
            f"has {math.prod(shape)} entries. Make them agree.",
        )
        if not jnp.iscomplexobj(matrix):
            left, values, right = singular_system(matrix)
        else:
            stacked = jnp.concatenate([matrix.real, matrix.imag])
            left, values, right = singular_system(stacked)
            left = jax.lax.complex(*jnp.split(left, 2))
        rest = matrix - _product(left * values[None, :], right.astype(matrix.dtype))
        return cls(
            left=left,
            values=values,
            right=right,
            remainder=with_tangent_of(jnp.zeros_like(rest), rest),
            shape=shape,
        )

    @property
    def singular_values(self) -> jax.Array:
        return self.values

    def to_measurement(
        self, rule: SpectralRule, x: jax.Array, *parameters: Any
    ) -> jax.Array:
        if self.remainder is None:
            return super().to_measurement(rule, x, *parameters)
        found = self._factors().to_measurement(rule, x, *parameters)
        missing = partial(_left_out_of_measurement, rule)
        arguments = self.left, self.values, x.ravel(), parameters
        return found + _tangent_like(found, missing, self.remainder, arguments)

    def combined(
        self,
        rule: JointRule,
        y: jax.Array,
        signals: tuple[jax.Array, ...],
        *parameters: Any,
    ) -> jax.Array:
        if self.remainder is None:
            return super().combined(rule, y, signals, *parameters)
        found = self._factors().combined(rule, y, signals, *parameters)
        missing = partial(_left_out_of_signal, rule)
        flat = tuple(x.ravel() for x in signals)
        arguments = self.left, self.values, self.right, y, flat, parameters
        return found + _tangent_like(found, missing, self.remainder, arguments)

    def v(self, z: jax.Array) -> jax.Array:
        found = _product(self.right.T.astype(z.dtype), z).reshape(self.shape)
        return self._with_defined_tangent(found)

    def v_adjoint(self, x: jax.Array) -> jax.Array:
        found = _product(self.right.astype(x.dtype), x.ravel())
        return self._with_defined_tangent(found)

    def u(self, z: jax.Array) -> jax.Array:
        found = _product(self.left.astype(self._dtype_like(z)), z)
        return self._with_defined_tangent(found)

    def u_adjoint(self, y: jax.Array) -> jax.Array:
        left = self.left.astype(self._dtype_like(y))
        return self._with_defined_tangent(_product(jnp.conj(left.T), y).real)

    def _factors(self) -> "DenseMatrix":
        """Return the operator whose derivatives are those of its factors."""
        return dataclasses.replace(self, remainder=None)

    def _with_defined_tangent(self, found: jax.Array) -> jax.Array:
        """Return `found`, of a NaN derivative in A where the factors have none."""
        if self.remainder is None:
            return found
        arguments = self.values, found
        return found + _tangent_like(found, _undefined, self.remainder, arguments)

    def _dtype_like(self, array: jax.Array) -> jnp.dtype:
        """Return the dtype of U at the precision of `array`."""
        precision = jnp.finfo(array.dtype).dtype
        if jnp.iscomplexobj(self.left):
            return jnp.result_type(precision, jnp.complex64)
        return precision


def _product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def _tangent_like(
    like: jax.Array,
    effect: Callable[..., jax.Array],
    remainder: jax.Array,
    arguments: Any,
) -> jax.Array:
    """Return zeros like `like`, with the tangent effect(remainder, *arguments)."""
    leaves, structure = jax.tree.flatten(arguments)

    def of_leaves(remainder: jax.Array, *leaves: jax.Array) -> jax.Array:
        return effect(remainder, *jax.tree.unflatten(structure, leaves))

    tangent = tangent_only(of_leaves, remainder, *map(jnp.asarray, leaves))
    return tangent.astype(like.dtype).reshape(like.shape)


def _undefined(remainder: jax.Array, values: jax.Array, like: jax.Array) -> jax.Array:
    """Return the tangent of a factor, NaN where it has none and 0 elsewhere."""
    rows, columns = remainder.shape
    parts = 2 if jnp.iscomplexobj(remainder) else 1
    defined = distinct(values, (parts * rows, columns))
    change = jnp.where(defined, 0, jnp.nan) * jnp.sum(remainder.real)
    return jnp.broadcast_to(change, like.shape)


# What `remainder` adds in first order. It acts within groups of equal singular values,
# where it is multiplied by the slope of the rule. Outside the basis these are 0; of a
# matrix of full rank nothing is left out there.
def _left_out_of_measurement(
    rule: SpectralRule,
    remainder: jax.Array,
    left: jax.Array,
    s: jax.Array,
    x: jax.Array,
    parameters: tuple[Any, ...],
) -> jax.Array:
    change = _product(remainder, x.astype(jnp.result_type(x, remainder)))
    inside = _product(jnp.conj(left.T), change).real
    outside, at = _beyond(s, change - _product(left, inside.astype(left.dtype)))
    free = _sloped(rule, at, outside.real, parameters)
    if jnp.iscomplexobj(left):
        imaginary = _sloped(rule, at, outside.imag, parameters)
        free = jax.lax.complex(free, imaginary)
    within = _sloped(rule, s, inside, parameters)
    return _product(left, within.astype(left.dtype)) + free


def _left_out_of_signal(
    rule: JointRule,
    remainder: jax.Array,
    left: jax.Array,
    s: jax.Array,
    right: jax.Array,
    y: jax.Array,
    signals: tuple[jax.Array, ...],
    parameters: tuple[Any, ...],
) -> jax.Array:
    change = _product(jnp.conj(remainder.T), y.astype(remainder.dtype)).real
    turned = [_product(remainder, x.astype(remainder.dtype)) for x in signals]
    inside = _product(right, change)
    moved = [_product(jnp.conj(left.T), image).real for image in turned]
    outside, at = _beyond(s, change - _product(right.T, inside))
    within = _sloped(rule, s, (inside, *moved), parameters)
    outer = outside, *(jnp.zeros_like(outside) for _ in signals)
    return _product(right.T, within) + _sloped(rule, at, outer, parameters)


def _beyond(s: jax.Array, outside: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return what lies outside the basis, and the singular values there.

    Of a matrix of full rank it is rounding, which the slope of a rule at 0 (1/damping)
    would make a number: it becomes 0, and the slope one that exists.
    """
    full = jnp.min(s, initial=jnp.inf) > rounding_level(s)
    at = jnp.where(full, jnp.max(s, initial=0.0), 0)
    return jnp.where(full, 0, outside), jnp.broadcast_to(at, outside.shape)


def _sloped(
    rule: SpectralRule, s: jax.Array, z: Any, parameters: tuple[Any, ...]
) -> jax.Array:
    """Return the derivative in s, (k,), of rule(s, z, *parameters)."""
    s = s.astype(jax.tree.leaves(z)[0].dtype)
    return jax.jvp(lambda s: rule(s, z, *parameters), (s,), (jnp.ones_like(s),))[1]
