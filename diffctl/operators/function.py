"""Operators made from a user's function."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.numerics.concrete import any_concrete
from diffctl.numerics.dtypes import float_spec
from diffctl.operators.base import LinearOperator, Operator
from diffctl.operators.checks import require
from diffctl.pytree import pytree_dataclass, static


@pytree_dataclass
class FunctionOperator(Operator):
    """y = function(x, *arguments), any differentiable function of one example.

    The function is part of the compiled program: define it once, at module level, and
    put arrays it needs into `arguments`. A new lambda compiles again, and arrays it
    captures become constants. It must be deterministic.
    """

    function: Callable[..., Any] = static()
    arguments: tuple[Any, ...] = ()
    shape: tuple[int, ...] = static()

    @classmethod
    def create(
        cls, function: Callable[..., Any], shape: tuple[int, ...], *arguments: Any
    ) -> "FunctionOperator":
        """Check that the function accepts one signal of `shape`."""
        _require_accepts(function, shape, arguments)
        return cls(function=function, arguments=arguments, shape=shape)

    def __call__(self, x: jax.Array) -> Any:
        """Return function(x, *arguments)."""
        return self.function(x, *self.arguments)


@pytree_dataclass
class LinearFunctionOperator(FunctionOperator, LinearOperator):
    """y = function(x, *arguments), linear in x, with derived adjoint.

    As `FunctionOperator`. A function that is not linear, or has a constant term, is
    refused as far as JAX can tell. The pseudo-inverse is iterative.
    """

    @classmethod
    def create(
        cls, function: Callable[..., Any], shape: tuple[int, ...], *arguments: Any
    ) -> "LinearFunctionOperator":
        """Check that the function accepts one signal of `shape` and has an adjoint."""
        _require_accepts(function, shape, arguments)
        operator = cls(function=function, arguments=arguments, shape=shape)
        remedy = "so it has no adjoint. Use FunctionOperator."
        try:
            jax.eval_shape(operator.normal, float_spec(shape))
        except _NO_TRANSPOSE as error:
            raise ValueError(
                f"{_name(function)} is not linear in its first argument, {remedy}"
            ) from error
        require(
            _vanishes(operator(jnp.zeros(shape))),
            f"{_name(function)} does not map zero to zero, {remedy}",
        )
        return operator


# What JAX raises, depending on the operation that cannot be transposed.
_NO_TRANSPOSE = (NotImplementedError, AssertionError, RuntimeError)


def _vanishes(tree: Any) -> bool:
    """Return whether all leaves are zero, as far as they are known."""
    return not any(
        any_concrete(lambda entries: entries != 0, leaf)
        for leaf in jax.tree.leaves(tree)
    )


def _require_accepts(
    function: Callable[..., Any], shape: tuple[int, ...], arguments: tuple[Any, ...]
) -> None:
    try:
        jax.eval_shape(function, float_spec(shape), *arguments)
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{_name(function)} does not accept a signal of shape {shape} with "
            f"{len(arguments)} further arguments: {error}. Expected a function of one "
            "example, written in jax.numpy."
        ) from error
    require(
        isinstance(shape, tuple), f"shape is {shape!r}; expected a tuple of integers."
    )


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", repr(function))
