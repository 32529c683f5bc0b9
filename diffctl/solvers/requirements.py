"""Checks at the door of a solve, before anything is compiled."""

from typing import Any

from diffctl.core import Solver
from diffctl.operators.base import Problem
from diffctl.operators.validation import validate_problem


def check_inputs(problem: Problem, prior: Any, solver: Solver) -> None:
    """Raise unless the solver can take this problem and prior.

    Raises:
        TypeError: the operator or prior lacks a capability that the solver needs; names
            solvers that do without it.
        ValueError: the problem is malformed, see `validate_problem`.
    """
    needed_operator, needed_prior = solver.requires
    _check_capability(solver, "operator", problem.operator, needed_operator)
    _check_capability(solver, "prior", prior, needed_prior)
    validate_problem(problem, prior.shape)


def _check_capability(solver: Solver, role: str, given: Any, needed: type) -> None:
    if isinstance(given, needed):
        return
    others = [
        other.__name__
        for other in solver_classes()
        if isinstance(given, other.requires[0 if role == "operator" else 1])
    ]
    cure = f"Use {', '.join(others)}" if others else "No solver takes one"
    raise TypeError(
        f"{type(solver).__name__} needs a {needed.__name__} as {role}; "
        f"{type(given).__name__} is not one. {cure}."
    )


def solver_classes() -> list[type[Solver]]:
    """Return every solver class that has been imported, by name."""
    found: set[type[Solver]] = set()
    waiting = list(Solver.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if hasattr(cls, "requires"):
            found.add(cls)
    return sorted(found, key=lambda cls: cls.__name__)
