"""Checks at the door of a solve, before anything is compiled."""

import inspect
from typing import Any, cast

from diffctl.core import Solver
from diffctl.operators.base import (
    LinearOperator,
    Problem,
    SpectralOperator,
    WhiteNoise,
)
from diffctl.operators.validation import validate_problem


def check_inputs(problem: Problem, prior: Any, solver: Solver) -> None:
    """Raise unless the solver can take this problem and prior.

    Raises:
        TypeError: operator, prior or noise lack a capability that the solver needs;
            names solvers that do without it.
        ValueError: the problem is malformed, see `validate_problem`, or settings of the
            solver cannot work with it.
    """
    check_capabilities(problem, prior, solver)
    validate_problem(problem, prior.shape)
    solver.check(problem, prior)


def check_capabilities(problem: Problem, prior: Any, solver: Solver) -> None:
    """Raise TypeError unless operator, prior and noise are of the classes needed.

    Solvers that are made of another one call this in `init` for that one.
    """
    _check_capability(solver, "operator", problem.operator)
    _check_capability(solver, "prior", prior)
    _check_capability(solver, "noise", problem.noise)


def _check_capability(solver: Solver, role: str, given: Any) -> None:
    needed = _needed(type(solver), role)
    if isinstance(given, needed):
        return
    others = [
        other.__name__
        for other in solver_classes()
        if isinstance(given, _needed(other, role))
    ]
    cure = f"Use {', '.join(others)}" if others else "No solver takes one"
    raise TypeError(
        f"{type(solver).__name__} needs a {needed.__name__} as {role}; "
        f"{type(given).__name__} is not one. {cure}."
    )


def _needed(solver: type[Solver], role: str) -> type:
    operator, prior = solver.requires
    return {"operator": operator, "prior": prior, "noise": solver.requires_noise}[role]


def solver_classes() -> list[type[Solver]]:
    """Return every concrete solver class that has been imported, by name."""
    found: set[type[Solver]] = set()
    waiting = list(Solver.__subclasses__())
    while waiting:
        cls = waiting.pop()
        waiting.extend(cls.__subclasses__())
        if hasattr(cls, "requires") and not inspect.isabstract(cls):
            found.add(cls)
    return sorted(found, key=lambda cls: cls.__name__)


def linear(problem: Problem) -> LinearOperator:
    """Return the operator of a problem whose solver requires a linear one."""
    return cast(LinearOperator, problem.operator)


def spectral(problem: Problem) -> SpectralOperator:
    """Return the operator of a problem whose solver requires a spectral one."""
    return cast(SpectralOperator, problem.operator)


def noise_std(problem: Problem) -> Any:
    """Return sigma_y, (), of a problem whose solver requires white noise."""
    return cast(WhiteNoise, problem.noise).std
