"""The same three methods driven from Python: watch, stop, save and resume a solve."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from diffctl.core import Solution, Solver, StepTrace
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.driver import (
    conclude,
    count_steps,
    guarded_start,
    guarded_step,
)
from diffctl.solvers.requirements import check_inputs


@pytree_dataclass
class SolveState:
    """What a solve needs to go on; a pytree to be saved with `diffctl.checkpoint`."""

    carry: Any
    finite: jax.Array  # () bool
    step: jax.Array  # () int32, steps done
    trace: StepTrace  # leaves (num_steps, ...), filled up to `step`


OnStep = Callable[[SolveState], Any]


def start(key: jax.Array, problem: Problem, prior: Any, solver: Solver) -> SolveState:
    """Return the state before the first step, of the shape of every later one."""
    return _start(key, problem, prior, solver)[0]


def solve_stepwise(
    key: jax.Array,
    problem: Problem,
    prior: Any,
    solver: Solver,
    *,
    on_step: OnStep,
    resume: SolveState | None = None,
) -> Solution:
    """Solve one problem step by step; agrees with `solve` to rounding.

    Args:
        key: typed PRNG key; when resuming, the key that the solve began with.
        problem: measurement, operator and noise of one example.
        prior: an object of the class that the solver needs.
        solver: which algorithm, with its hyper-parameters.
        on_step: called with the state after each step; a true result ends the solve
            early. The state's memory is reused afterwards: copy or save what you keep.
        resume: a state to go on from instead of starting anew.

    Returns:
        The solution, with the final `SolveState` in `carry`. After an early end,
        `stats.misfit` is NaN for the steps not taken.
    """
    check_inputs(problem, prior, solver)
    state, xs = _start(key, problem, prior, solver)
    state = state if resume is None else resume
    for _ in range(int(state.step), count_steps(xs)):
        state = _advance(state, xs, problem, prior, solver)
        if on_step(state):
            break
    return _finish(state, problem, prior, solver)


@jax.jit
def _start(
    key: jax.Array, problem: Problem, prior: Any, solver: Solver
) -> tuple[SolveState, Any]:
    carry, finite, xs = guarded_start(key, problem, prior, solver)
    first = jax.tree.map(lambda leaf: leaf[0], xs)
    _, trace = jax.eval_shape(solver.step, carry, first, problem, prior)
    num_steps = count_steps(xs)

    def empty(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf) if isinstance(leaf, int) else leaf
        fill = jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0
        return jnp.full((num_steps, *leaf.shape), fill, leaf.dtype)

    state = SolveState(
        carry=carry,
        finite=finite,
        step=jnp.int32(0),
        trace=jax.tree.map(empty, trace),
    )
    return state, xs


@partial(jax.jit, donate_argnums=0)
def _advance(
    state: SolveState, xs: Any, problem: Problem, prior: Any, solver: Solver
) -> SolveState:
    i = state.step
    x = jax.tree.map(lambda leaf: leaf[i], xs)
    carry, finite, trace = guarded_step(
        state.carry, state.finite, x, problem, prior, solver
    )
    filled = jax.tree.map(lambda row, new: row.at[i].set(new), state.trace, trace)
    return SolveState(carry=carry, finite=finite, step=i + 1, trace=filled)


@jax.jit
def _finish(
    state: SolveState, problem: Problem, prior: Any, solver: Solver
) -> Solution:
    done = conclude(
        state.carry, state.finite, state.trace, None, problem, prior, solver
    )
    return replace(done, carry=state)
