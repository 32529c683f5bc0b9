"""Solvers with as many steps as fit into a number of network calls.

The calls of a solve are affine in its number of steps, so two counts tell how many
steps a budget allows. What a step is depends on the solver: a noise level, an
iteration, a level that a whole cloud of particles passes.
"""

from collections.abc import Callable, Mapping

from diffctl.cli.solver_table import SOLVERS, Build
from diffctl.core import Solver
from diffctl.host import show
from diffctl.solvers import DOC
from experiments.common.solving import count_calls

OWN = "own"

# Fewer noise levels are no diffusion; grids that divide 1000 levels take these two.
_FEWEST, _NEXT = 4, 5  # neighbours, so that their calls differ by those of a step


def _doc(task: str, steps: int | None) -> Solver:
    """Return DOC with one iteration on `steps` levels.

    Its guided start needs many levels more than it needs iterations.
    """
    assert steps is not None
    return DOC.default(num_levels=steps, num_steps=1)


def _doc_ilqr(task: str, steps: int | None) -> Solver:
    """Return DOC with one second-order iteration on `steps` levels."""
    assert steps is not None
    return DOC.ilqr(num_levels=steps, num_steps=1)


# Where a step is not what the command line's --steps counts.
_BUILD: Mapping[str, Build] = {"doc": _doc, "doc_ilqr": _doc_ilqr}


def solver_within(budget: str, name: str, task: str) -> Solver | None:
    """Return the solver with the most steps that a budget allows.

    Args:
        budget: "own" for the solver's own number of steps, or forwards + VJPs.
        name: in `SOLVERS`.
        task: whose settings the solver has.

    Returns:
        The solver, or None where it makes no calls or cannot make so few.

    Raises:
        ValueError: the budget is neither "own" nor a positive number.
    """
    choice = SOLVERS[name]
    if budget == OWN:
        return choice.build(task, None)
    # Longer ones are no numbers of calls that anybody waits for.
    number = budget if budget.isascii() and len(budget) <= 6 else ""
    if not (number.isdecimal() and int(number)):
        raise ValueError(
            f"A budget is {show(budget)}; expected {OWN!r} or a positive number of "
            "calls, at most 999999."
        )
    build = _BUILD.get(name, choice.build)

    def calls(steps: int) -> int:
        return count_calls(build(task, steps), choice.adapt).calls

    fewest = calls(_FEWEST)
    per_step = calls(_NEXT) - fewest
    if fewest > int(budget) or not per_step:
        return None
    most = _FEWEST + (int(budget) - fewest) // per_step
    return _with_most_steps(lambda steps: build(task, steps), most)


def _with_most_steps(build: Callable[[int], Solver], most: int) -> Solver:
    """Return the solver with `most` steps, or as many fewer as it can have."""
    for steps in range(most, _FEWEST, -1):
        try:
            return build(steps)
        except ValueError:  # its grid has no such number of levels
            continue
    return build(_FEWEST)
