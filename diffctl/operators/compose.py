"""Operators made from operators: one after the other, or side by side.

Both keep linearity: `compose` and `stack` return a `LinearOperator` if all parts are.
"""

from typing import Any

import jax

from diffctl.operators.base import LinearOperator, Operator
from diffctl.operators.checks import require
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class Composition(Operator):
    """x -> outer(inner(x)); written `outer @ inner`."""

    outer: Operator
    inner: Operator
    shape: tuple[int, ...] = static()

    def __call__(self, x: jax.Array) -> Any:
        """Return outer(inner(x))."""
        return self.outer(self.inner(x))

    def restrict(self, y: Any) -> Any:
        return self.outer.restrict(y)

    def num_observed(self) -> Any:
        return self.outer.num_observed()


@pytree_dataclass
class LinearComposition(Composition, LinearOperator):
    """x -> outer(inner(x)) for linear parts; its adjoint is inner^H outer^H."""

    outer: LinearOperator
    inner: LinearOperator

    def adjoint(self, y: Any) -> jax.Array:
        return self.inner.adjoint(self.outer.adjoint(y))


@pytree_dataclass
class Stack(Operator):
    """x -> (A_1 x, A_2 x, ...): several measurements of one signal, as a tuple."""

    parts: tuple[Operator, ...]
    shape: tuple[int, ...] = static()

    def __call__(self, x: jax.Array) -> tuple[Any, ...]:
        """Return the tuple of measurements."""
        return tuple(part(x) for part in self.parts)

    def restrict(self, y: Any) -> Any:
        pairs = zip(self.parts, y, strict=True)
        return tuple(part.restrict(leaf) for part, leaf in pairs)

    def num_observed(self) -> Any:
        return sum(part.num_observed() for part in self.parts)


@pytree_dataclass
class LinearStack(Stack, LinearOperator):
    """x -> (A_1 x, A_2 x, ...) for linear parts; the adjoint adds up A_i^H y_i."""

    parts: tuple[LinearOperator, ...]

    def adjoint(self, y: Any) -> jax.Array:
        terms = [part.adjoint(leaf) for part, leaf in zip(self.parts, y, strict=True)]
        return sum(terms[1:], start=terms[0])


def compose(outer: Operator, inner: Operator) -> Operator:
    """Return x -> outer(inner(x)).

    Raises `ValueError` if `inner` does not return an array of the shape of `outer`. The
    result is spectral in no case, even if both parts are.
    """
    between = inner.measurement_spec()
    found = getattr(between, "shape", between)
    require(
        found == outer.shape,
        f"{type(inner).__name__} returns shape {found} but {type(outer).__name__} "
        f"takes {outer.shape}. Build the outer operator for the shape that the inner "
        "returns.",
    )
    if isinstance(outer, LinearOperator) and isinstance(inner, LinearOperator):
        return LinearComposition(outer=outer, inner=inner, shape=inner.shape)
    return Composition(outer=outer, inner=inner, shape=inner.shape)


def stack(*parts: Operator) -> Operator:
    """Return x -> (A_1 x, A_2 x, ...), all of one signal shape.

    Raises `ValueError` if the shapes differ or there are no parts.
    """
    require(len(parts) > 0, "stack got no operators; expected at least one.")
    shapes = [part.shape for part in parts]
    require(
        len(set(shapes)) == 1,
        f"the stacked operators take signals of shapes {shapes}; expected one shape.",
    )
    linear = tuple(part for part in parts if isinstance(part, LinearOperator))
    if len(linear) == len(parts):
        return LinearStack(parts=linear, shape=shapes[0])
    return Stack(parts=parts, shape=shapes[0])
