"""Where the pull-back of a step comes from: computed again, or stored by the rollout.

The pull-back of step i maps the cotangent of x_{i+1} to those of (x_i, u_i). It is
taken jointly in x and u, so any dynamics work and a control that is merely added to the
state costs nothing extra.
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
from jax.extend import core as jax_core

from diffctl.control.problem import Dynamics
from diffctl.pytree import pytree_dataclass

Cotangents = tuple[jax.Array, jax.Array]
Pullback = Callable[[jax.Array], Cotangents]
Recall = Callable[[jax.Array, jax.Array, jax.Array, Any], Pullback]


class Linearisation(abc.ABC):
    """A trade of memory for forward passes in the backward sweep."""

    forwards_per_step: ClassVar[int]  # forward passes that the backward sweep needs

    @abc.abstractmethod
    def step(
        self, dynamics: Dynamics, i: jax.Array, x: jax.Array, u: jax.Array
    ) -> tuple[jax.Array, Any]:
        """Return `(x_next, memory)`; the rollout stacks the memory along axis 0."""

    @abc.abstractmethod
    def recall(self, dynamics: Dynamics, x: jax.Array, u: jax.Array) -> Recall:
        """Return a function `(i, x, u, memory) -> pullback` for the backward sweep.

        `x` and `u` are those of any one step, for their shapes. Call it outside the
        sweep: what all steps have in common is computed here, once.
        """


@pytree_dataclass
class Recompute(Linearisation):
    """Store states only: one more forward pass per step, memory of a single step."""

    forwards_per_step: ClassVar[int] = 1

    def step(
        self, dynamics: Dynamics, i: jax.Array, x: jax.Array, u: jax.Array
    ) -> tuple[jax.Array, Any]:
        return dynamics(i, x, u), None

    def recall(self, dynamics: Dynamics, x: jax.Array, u: jax.Array) -> Recall:
        def pullback_of(
            i: jax.Array, x: jax.Array, u: jax.Array, memory: Any
        ) -> Pullback:
            return jax.vjp(partial(dynamics, i), x, u)[1]

        return pullback_of


@pytree_dataclass
class StorePullbacks(Linearisation):
    """Store every step's residuals: no extra forward pass, T activation sets.

    Residuals that do not depend on the step, such as network weights, are left out of
    the store; stacked with the others they would be held T times over.
    """

    forwards_per_step: ClassVar[int] = 0

    def step(
        self, dynamics: Dynamics, i: jax.Array, x: jax.Array, u: jax.Array
    ) -> tuple[jax.Array, Any]:
        x_next, pullback = jax.vjp(partial(dynamics, i), x, u)
        residuals = jax.tree.leaves(pullback)
        varies = _varying_residuals(dynamics, i, x, u)
        return x_next, tuple(
            leaf for leaf, keep in zip(residuals, varies, strict=True) if keep
        )

    def recall(self, dynamics: Dynamics, x: jax.Array, u: jax.Array) -> Recall:
        i = jax.numpy.int32(0)
        varies = _varying_residuals(dynamics, i, x, u)
        structure = jax.tree.structure(
            jax.eval_shape(lambda *at: jax.vjp(partial(dynamics, i), *at)[1], x, u)
        )
        # The compiler removes all of this program but the step-independent residuals.
        common = jax.jit(lambda *at: _select(_residuals(dynamics, *at), varies, False))
        shared = common(i, x, u)

        def pullback_of(
            i: jax.Array, x: jax.Array, u: jax.Array, memory: Any
        ) -> Pullback:
            stored, fixed = iter(memory), iter(shared)
            leaves = [next(stored) if keep else next(fixed) for keep in varies]
            return jax.tree.unflatten(structure, leaves)

        return pullback_of


def _residuals(
    dynamics: Dynamics, i: jax.Array, x: jax.Array, u: jax.Array
) -> list[jax.Array]:
    return jax.tree.leaves(jax.vjp(partial(dynamics, i), x, u)[1])


def _select(leaves: list[Any], flags: list[bool], wanted: bool) -> tuple[Any, ...]:
    return tuple(
        leaf for leaf, flag in zip(leaves, flags, strict=True) if flag is wanted
    )


def _varying_residuals(
    dynamics: Dynamics, i: jax.Array, x: jax.Array, u: jax.Array
) -> list[bool]:
    """Say of each residual of the pull-back whether it depends on (i, x, u)."""
    closed = jax.make_jaxpr(partial(_residuals, dynamics))(i, x, u)
    return _dependence(closed.jaxpr, [True] * len(closed.jaxpr.invars))


def _dependence(jaxpr: Any, varying: list[bool]) -> list[bool]:
    """Propagate dependence from the inputs of a jaxpr to its outputs."""
    marked = {var for var, flag in zip(jaxpr.invars, varying, strict=True) if flag}

    def is_marked(atom: Any) -> bool:
        return not isinstance(atom, jax_core.Literal) and atom in marked

    for equation in jaxpr.eqns:
        flags = [is_marked(atom) for atom in equation.invars]
        results = [any(flags)] * len(equation.outvars)
        if equation.primitive.name in ("jit", "pjit"):
            # Looking inside keeps e.g. a jitted cast of the weights out of the store.
            results = _dependence(equation.params["jaxpr"].jaxpr, flags)
        marked.update(
            var for var, flag in zip(equation.outvars, results, strict=True) if flag
        )
    return [is_marked(atom) for atom in jaxpr.outvars]
