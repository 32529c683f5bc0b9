"""Checks at the door of a solve, before anything is compiled."""

import inspect
from collections.abc import Mapping
from typing import Any

from diffctl.core import Solver
from diffctl.operators.base import (
    LinearOperator,
    Problem,
    SpectralOperator,
    WhiteNoise,
)
from diffctl.operators.validation import validate_problem
from diffctl.solvers.ranges import check_ranges

# How many solvers an error names; `diffctl list` shows all.
NUM_NAMED = 5


class CapabilityError(TypeError):
    """A solver cannot take a problem.

    Attributes:
        reason: what is missing; the message goes on with solvers that do without it.
    """

    def __init__(self, reason: str, cure: str) -> None:
        super().__init__(f"{reason} {cure}")
        self.reason = reason


def check_inputs(
    problem: Problem, prior: Any, solver: Solver, *, examples: int = 1
) -> None:
    """Raise unless the solver can take this problem and prior.

    Args:
        problem: one example.
        prior: what the solver is to be run with.
        solver: its settings are checked too.
        examples: how many like it run at a time, in the same memory.

    Raises:
        CapabilityError: operator, prior or noise lack a capability that the solver
            needs; names solvers that do without it.
        ValueError: the problem is malformed, see `validate_problem`, or settings of the
            solver cannot work with it, or so many examples do not fit into memory.
    """
    check_capabilities(problem, prior, solver)
    validate_problem(problem, prior.shape)
    check_ranges(solver)
    solver.check(problem, prior)
    solver.check_memory(problem, prior, examples)


def check_capabilities(problem: Problem, prior: Any, solver: Solver) -> None:
    """Raise CapabilityError unless operator, prior and noise are of the classes."""
    given = _given(problem, prior)
    needed = _needed(type(solver))
    for role, what in given.items():
        if isinstance(what, needed[role]):
            continue
        able = {cls.__name__: cls for cls in solver_classes() if _takes(cls, given)}
        raise CapabilityError(
            f"{type(solver).__name__} needs a {needed[role].__name__} as {role}; "
            f"{type(what).__name__} is not one.",
            cure=name_nearest(type(solver), able),
        )


def check_inner(problem: Problem, prior: Any, inner: Solver) -> None:
    """Raise what `inner` would: for the `check` of solvers that are made of it."""
    check_capabilities(problem, prior, inner)
    inner.check(problem, prior)


def can_take(problem: Problem, prior: Any, solver: type[Solver]) -> bool:
    """Return whether operator, prior and noise are of the classes that it needs."""
    return _takes(solver, _given(problem, prior))


def name_nearest(wanted: type[Solver], able: Mapping[str, type[Solver]]) -> str:
    """Return a sentence that names solvers which can, the most like `wanted` first.

    Args:
        wanted: the solver that cannot.
        able: those that can, by the names that the user knows.
    """
    if not able:
        return "No solver takes this operator with this prior and this noise."
    alike = sorted(able, key=lambda name: -_likeness(wanted, able[name]))
    nearest, *others = alike[:NUM_NAMED]
    rest = f"; so can {', '.join(others)}" if others else ""
    more = len(alike) - NUM_NAMED
    count = f" and {more} more" if more > 0 else ""
    return f"The nearest that can is {nearest}{rest}{count}."


def _likeness(one: type[Solver], other: type[Solver]) -> int:
    """Return how many ancestors two solvers share, and the classes that they need."""
    pairs = [(one, other)]
    pairs += zip(_needed(one).values(), _needed(other).values(), strict=True)
    return sum(len(set(a.__mro__) & set(b.__mro__)) for a, b in pairs)


def _given(problem: Problem, prior: Any) -> dict[str, Any]:
    return {"operator": problem.operator, "prior": prior, "noise": problem.noise}


def _needed(solver: type[Solver]) -> dict[str, type]:
    operator, prior = solver.requires
    return {"operator": operator, "prior": prior, "noise": solver.requires_noise}


def _takes(solver: type[Solver], given: dict[str, Any]) -> bool:
    return all(isinstance(given[role], kind) for role, kind in _needed(solver).items())


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
    """Return the operator of a problem; raise TypeError if it is not linear."""
    return _of_kind(problem.operator, LinearOperator)


def spectral(problem: Problem) -> SpectralOperator:
    """Return the operator of a problem; raise TypeError if it is not spectral."""
    return _of_kind(problem.operator, SpectralOperator)


def noise_std(problem: Problem) -> Any:
    """Return sigma_y, (), of a problem; raise TypeError if its noise is not white."""
    return _of_kind(problem.noise, WhiteNoise).std


def _of_kind(given: Any, needed: type) -> Any:
    if not isinstance(given, needed):
        raise TypeError(
            f"A setting of this solver needs a {needed.__name__}; "
            f"{type(given).__name__} is not one. Choose another setting, such as a "
            "start that does not invert the operator."
        )
    return given
