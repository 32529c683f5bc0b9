"""Whether a named solver can take a problem, and which named ones can instead."""

from collections.abc import Iterator
from typing import Any

from diffctl.cli.solver_table import SOLVERS
from diffctl.core import Solver
from diffctl.operators import Problem
from diffctl.solvers.requirements import (
    CapabilityError,
    can_take,
    check_inputs,
    name_nearest,
)


def check_named(
    name: str, solver: Solver, task: str, problem: Problem, prior: Any
) -> None:
    """Raise what a solve would, before it begins; see `check_inputs`.

    Args:
        name: in `SOLVERS`.
        solver: the one of that name, as it will be run.
        task: in `TASKS`.
        problem: one example.
        prior: diffusion prior, not yet adapted to the solver.

    Raises:
        CapabilityError: the solver cannot take the problem; names those that can, as
            they are called in `SOLVERS`.
    """
    try:
        check_inputs(problem, SOLVERS[name].adapt(prior), solver)
    except CapabilityError as error:
        able = dict(_able(task, problem, prior))
        cure = name_nearest(type(solver), able)
        raise CapabilityError(error.reason, cure) from error


def _able(
    task: str, problem: Problem, prior: Any
) -> Iterator[tuple[str, type[Solver]]]:
    """Yield the names of solvers that can take a problem, and their classes."""
    for name, choice in SOLVERS.items():
        try:
            kind = type(choice.build(task, None))
        except ValueError:  # it has no settings for this task
            continue
        if can_take(problem, choice.adapt(prior), kind):
            yield name, kind
