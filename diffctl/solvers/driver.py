"""The one loop: every solver is run by `solve`, batched by `solve_batch`.

    carry, xs = init;    carry, trace = step(carry, x) for x in xs;    x0 = finalize

A step whose result or misfit is not finite is not taken: the carry stays at the last
finite one and the example's status says so. A start that is not finite has zeros in
these places. Nothing here raises inside a compiled program.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from diffctl.core import Solution, Solver, Stats, Status, StepTrace
from diffctl.numerics.finite import finite_or_zero, tree_is_finite
from diffctl.numerics.varying import varying_alike
from diffctl.operators.base import Problem
from diffctl.solvers import progress
from diffctl.solvers.promises import check_promises
from diffctl.solvers.requirements import check_inputs

Record = Callable[[Any, StepTrace], Any]


def solve(
    key: jax.Array,
    problem: Problem,
    prior: Any,
    solver: Solver,
    *,
    record: Record | None = None,
) -> Solution:
    """Solve one inverse problem.

    Args:
        key: typed PRNG key; the same key gives the same result.
        problem: measurement, operator and noise of one example.
        prior: an object of the class that the solver needs.
        solver: which algorithm, with its hyper-parameters.
        record: `record(carry, trace)` chooses what is kept of every step, stacked in
            `Solution.trace`; by default nothing but the scalars in `Solution.stats`. It
            is part of the compiled program: pass the same function object every time.

    Returns:
        The reconstruction with its status and statistics.

    Raises:
        TypeError: the solver cannot use this operator or prior; the message names one
            that can.
        ValueError: shapes, dtypes or values cannot be right.
    """
    check_inputs(problem, prior, solver)
    return _solve(
        key, problem, prior, solver, record=record, report=progress.listening()
    )


def run(
    key: jax.Array,
    problem: Problem,
    prior: Any,
    solver: Solver,
    *,
    record: Record | None = None,
    report: bool = False,
) -> Solution:
    """Do the work of `solve`: traceable, without checks and without jit."""
    arguments = varying_alike((key, problem, prior, solver))
    key, problem, prior, solver = arguments
    carry, finite, xs = guarded_start(*arguments)
    num_steps = count_steps(xs)

    def body(state: tuple[Any, jax.Array], at: Any) -> tuple[Any, Any]:
        carry, finite = state
        i, x = at
        carry, finite, trace = guarded_step(carry, finite, x, problem, prior, solver)
        if report:
            progress.report(i, num_steps)
        kept = None if record is None else record(carry, trace)
        return (carry, finite), (trace, kept)

    indices = jnp.arange(num_steps, dtype=jnp.int32)
    state = (carry, finite)
    (carry, finite), (trace, kept) = lax.scan(body, state, (indices, xs))
    return conclude(carry, finite, trace, kept, problem, prior, solver)


_solve = jax.jit(run, static_argnames=("record", "report"))


def guarded_start(
    key: jax.Array, problem: Problem, prior: Any, solver: Solver
) -> tuple[Any, jax.Array, Any]:
    """Return the first carry, whether it is finite, and `xs`.

    Solvers that start from the measurement inherit its NaNs.
    """
    check_promises(problem, prior, solver)
    carry, xs = solver.init(key, problem, prior)
    start = finite_or_zero(carry), tree_is_finite(carry), xs
    return varying_alike((*start, key))[:3]


def guarded_step(
    carry: Any, finite: jax.Array, x: Any, problem: Problem, prior: Any, solver: Solver
) -> tuple[Any, jax.Array, StepTrace]:
    """Take a step unless it, or one before it, leads to a NaN or an infinity."""
    proposed, trace = solver.step(carry, x, problem, prior)
    _require_shapes(solver, (proposed, trace.misfit), (carry, 0.0))
    finite = finite & tree_is_finite((proposed, trace.misfit))
    carry = jax.tree.map(partial(jnp.where, finite), proposed, carry)
    return carry, finite, trace


def conclude(
    carry: Any,
    finite: jax.Array,
    trace: StepTrace,
    kept: Any,
    problem: Problem,
    prior: Any,
    solver: Solver,
) -> Solution:
    """Assemble the solution from the final carry and the stacked step traces."""
    x = solver.finalize(carry, problem, prior)
    ok = finite & tree_is_finite(x)
    outside = solver.calls_outside_steps()

    def total(per_step: Any, extra: int) -> jax.Array:
        per_step = jnp.broadcast_to(per_step, trace.misfit.shape)
        return jnp.sum(per_step, dtype=jnp.int32) + jnp.int32(extra)

    return Solution(
        x=x,
        status=jnp.where(ok, jnp.int32(Status.OK), jnp.int32(Status.NONFINITE)),
        stats=Stats(
            misfit=trace.misfit,
            nfe_fwd=total(trace.calls.fwd, outside.fwd),
            nvjp=total(trace.calls.vjp, outside.vjp),
            njvp=total(trace.calls.jvp, outside.jvp),
        ),
        trace=kept,
    )


def _require_shapes(solver: Solver, found: Any, expected: Any) -> None:
    """Raise ValueError where JAX would broadcast what a step returns."""
    shapes = [list(map(jnp.shape, jax.tree.leaves(tree))) for tree in (found, expected)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"step of {type(solver).__name__} returns the shapes {shapes[0]}; "
            f"expected {shapes[1]}."
        )


def count_steps(xs: Any) -> int:
    """Return the length of the leading axis that the leaves of `xs` share."""
    return int(jax.tree.leaves(xs)[0].shape[0])


def check(solution: Solution) -> Solution:
    """Return the solution, or raise `FloatingPointError` naming the failed examples.

    For use on the host, on a batch or a single example.
    """
    status = np.atleast_1d(np.asarray(solution.status))
    failed = [int(i) for i in np.flatnonzero(status != Status.OK)]
    if failed:
        code = Status(int(status[failed[0]]))
        raise FloatingPointError(
            f"{len(failed)} of {status.size} examples failed (indices {failed[:10]}): "
            f"{code.meaning}. Try a smaller step or guidance scale, or float64."
        )
    return solution
