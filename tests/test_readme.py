"""The README is generated where it can be, and its example runs."""

import re
from pathlib import Path

import jax

from diffctl.assets import digits_prior
from diffctl.cli.listing import contents, markdown
from diffctl.cli.solver_table import SOLVERS
from diffctl.solvers import DOC
from experiments.common.solving import count_calls
from experiments.digits.budgets import solver_within

README = (Path(__file__).parents[1] / "README.md").read_text()
PROSE = " ".join(README.split())


def test_lists_are_those_of_the_code():
    block = re.search(
        r"<!-- begin generated -->\n(.*)<!-- end generated -->", README, re.DOTALL
    )
    assert block is not None
    assert block.group(1).strip() == markdown(contents())


def test_example_runs():
    example = re.search(r"## Ten lines of Python\n\n```python\n(.*?)```", README, re.S)
    assert example is not None
    scope: dict[str, object] = {}
    exec(example.group(1), scope)
    assert int(scope["solution"].status) == 0


def _levels(name: str, budget: int) -> int:
    solver = solver_within(str(budget), name, "super_resolution_x4")
    return solver.grid.num_steps  # type: ignore[union-attr]


def test_levels_within_a_budget_are_those_of_the_code():
    most, fewer, fewest = (_levels("doc", budget) for budget in (1000, 300, 100))
    assert f"With 1000 calls (one iteration on {most} of them)" in PROSE
    assert f"with 300 ({fewer} levels)" in PROSE
    assert f"with 100 ({fewest} levels)" in PROSE
    few, more = (_levels("dps", budget) for budget in (100, 300))
    assert f"with {few} and {more} it reaches 10.6" in PROSE


def test_calls_are_those_of_the_code():
    def cost(solver):
        return count_calls(solver, lambda prior: prior)

    assert f"at most {cost(DOC.default()).calls} calls" in PROSE
    second = cost(DOC.ilqr(rank=16)).vjps
    first = cost(DOC.default(num_levels=20)).vjps
    assert f"They take {second} and 2960 pull-backs instead of {first}" in PROSE
    assert f"50 levels and {cost(DOC.default()).vjps} pull-backs" in PROSE


def test_sizes_are_those_of_the_code():
    assert f"{len(SOLVERS)} solvers and presets" in PROSE
    learned = sum(leaf.size for leaf in jax.tree.leaves(digits_prior().net))
    assert f"is small ({learned / 1e6:.0f} M parameters" in PROSE
