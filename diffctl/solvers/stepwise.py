"""The same three methods driven from Python: watch, stop, save and resume a solve."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl import checkpoint, digest
from diffctl.core import Solution, Solver, StepTrace
from diffctl.numerics.concrete import concrete, is_known
from diffctl.numerics.varying import varying_alike
from diffctl.operators.base import Problem
from diffctl.pytree import pytree_dataclass
from diffctl.solvers.driver import (
    conclude,
    count_steps,
    guarded_start,
    guarded_step,
)
from diffctl.solvers.requirements import check_inputs

# What a state belongs to, in the order of its digests.
ARGUMENTS = ("key", "problem", "prior", "solver")


@pytree_dataclass
class SolveState:
    """What a solve needs to go on, and which solve that is.

    A pytree of arrays, to be kept, copied or saved; nothing is written into it later.
    """

    carry: Any
    finite: jax.Array  # () bool
    step: jax.Array  # () int32, steps done
    trace: StepTrace  # leaves (num_steps, ...), filled up to `step`
    belongs_to: Any  # (4, 32) uint8, digests of `ARGUMENTS`; zero if they were traced

    def save(self, folder: str | Path) -> None:
        """Write the state to a folder, in place of an earlier one of the same solve.

        Whenever the process is killed, one of the two is there, whole.

        Args:
            folder: created if need be.

        Raises:
            CheckpointError: the folder holds anything else, such as the state of
                another solve, or a damaged one.
        """
        if checkpoint.exists(folder):
            saved = checkpoint.stored(folder, ".belongs_to")
            if saved is None or not np.array_equal(saved, self.belongs_to):
                raise checkpoint.CheckpointError(
                    f"{folder} holds the state of another solve, which is not replaced."
                    " Choose another folder, or delete that one if it is not needed."
                )
        checkpoint.save(folder, self)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        key: jax.Array,
        problem: Problem,
        prior: Any,
        solver: Solver,
    ) -> "SolveState":
        """Read the state of a solve; `diffctl.checkpoint.exists` says if there is one.

        Args:
            folder: as given to `save`.
            key: of the solve, as the other three.
            problem: measurement, operator and noise.
            prior: what the solver needs.
            solver: which algorithm, with its hyper-parameters.

        Raises:
            CheckpointError: there is no state, or it is damaged.
            ValueError: the state belongs to another solve.
        """
        arguments = (key, problem, prior, solver)
        saved = checkpoint.stored(folder, ".belongs_to")
        if saved is not None and saved.shape == (len(ARGUMENTS), digest.SIZE):
            _require_same(saved, _digests(*arguments))
        return checkpoint.restore(folder, jax.eval_shape(start, *arguments))


OnStep = Callable[[SolveState], Any]


def start(key: jax.Array, problem: Problem, prior: Any, solver: Solver) -> SolveState:
    """Return the state before the first step, of the shape of every later one."""
    arguments = (key, problem, prior, solver)
    belongs_to = _digests(*arguments)
    return replace(_start(*arguments)[0], belongs_to=belongs_to)


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

    Inside `jax.jit` and its like every step is traced by itself, and so are the states
    that `on_step` sees, whose results must then be false.

    Args:
        key: typed PRNG key; when resuming, the key that the solve began with.
        problem: measurement, operator and noise of one example.
        prior: an object of the class that the solver needs.
        solver: which algorithm, with its hyper-parameters.
        on_step: called with the state after each step; a true result ends the solve
            early.
        resume: a state to go on from instead of starting anew. It stays valid.

    Returns:
        The solution, with the final `SolveState` in `carry`. After an early end,
        `stats.misfit` is NaN for the steps not taken.

    Raises:
        TypeError: as `solve`.
        ValueError: as `solve`; or `resume` belongs to another key, problem, prior or
            solver.
    """
    # Before anything is traced, which calls functions that may count their calls.
    belongs_to = _digests(key, problem, prior, solver)
    check_inputs(problem, prior, solver)
    state, xs = _start(key, problem, prior, solver)
    state, steps_done = replace(state, belongs_to=belongs_to), 0
    if resume is not None:
        _require_same(resume.belongs_to, belongs_to)
        state, steps_done = resume, int(resume.step)
    for _ in range(steps_done, count_steps(xs)):
        state = _advance(state, xs, problem, prior, solver)
        if on_step(state):
            break
    return _finish(state, problem, prior, solver)


def _digests(*arguments: Any) -> np.ndarray:
    """Return the digests of `ARGUMENTS`, (4, 32) uint8; zero for what is not known."""
    rows = [
        digest.digest(argument) if is_known(argument) else bytes(digest.SIZE)
        for argument in arguments
    ]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), digest.SIZE)


def _require_same(found: Any, expected: Any) -> None:
    """Raise ValueError if a state belongs to another solve, as far as that is known."""
    theirs, ours = concrete(found), concrete(expected)
    if theirs is None or ours is None:
        return
    others = [
        name
        for name, its, own in zip(ARGUMENTS, theirs, ours, strict=True)
        if own.any() and not np.array_equal(its, own)
    ]
    if others:
        raise ValueError(
            f"the state belongs to a solve with another {' and '.join(others)}; "
            "expected the same key, problem, prior and solver, with equal numbers and "
            "settings. Resume it with those, or start anew."
        )


@jax.jit
def _start(
    key: jax.Array, problem: Problem, prior: Any, solver: Solver
) -> tuple[SolveState, Any]:
    arguments = varying_alike((key, problem, prior, solver))
    _, problem, prior, solver = arguments
    carry, finite, xs = guarded_start(*arguments)
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
        belongs_to=None,
    )
    return state, xs


@jax.jit
def _advance(
    state: SolveState, xs: Any, problem: Problem, prior: Any, solver: Solver
) -> SolveState:
    i = state.step
    x = jax.tree.map(lambda leaf: leaf[i], xs)
    carry, finite, trace = guarded_step(
        state.carry, state.finite, x, problem, prior, solver
    )
    filled = jax.tree.map(lambda row, new: row.at[i].set(new), state.trace, trace)
    return replace(state, carry=carry, finite=finite, step=i + 1, trace=filled)


@jax.jit
def _finish(
    state: SolveState, problem: Problem, prior: Any, solver: Solver
) -> Solution:
    done = conclude(
        state.carry, state.finite, state.trace, None, problem, prior, solver
    )
    return replace(done, carry=state)
