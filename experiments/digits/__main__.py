r"""Run the digits experiment, or render its table.

python -m experiments.digits --data mnist.npz --out runs/digits
python -m experiments.digits table --out runs/digits

Every solver, at its own settings and at equal numbers of network calls:

python -m experiments.digits --data mnist.npz --out runs/all --solvers all \
    --budgets own 100 300 1000
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from diffctl import assets
from diffctl.cli.names import lookup
from diffctl.cli.solver_table import SOLVERS
from diffctl.cli.terminal import Terminal
from diffctl.core import Solver
from diffctl.host import Count, Range, Seed
from diffctl.operators import Problem
from diffctl.solvers.requirements import check_inputs
from diffctl.training.data import Dataset, to_unit_range
from experiments.common import Restorations, Results, Row, command, run_rows
from experiments.common.environment import fingerprint
from experiments.common.restoration import RESTORATIONS
from experiments.common.runner import problem_key
from experiments.digits.budgets import OWN, solver_within
from experiments.digits.table import render

ALL = "all"


@dataclass(frozen=True)
class Run:
    """Restore test digits; images that have results already are skipped.

    Attributes:
        data: An .npz file with uint8 images x_test (N, 28, 28, 1) and labels y_test.
        out: Folder for the results; a second run goes on where the first ended.
        count: Images, the first of x_test.
        tasks: Restorations; `diffctl list` names them.
        solvers: `diffctl list` names them; `all` stands for every one.
        budgets: Network calls (forwards + VJPs) of a solve, or `own` for as many as the
            solver makes by default. What cannot make so few is left out.
        chunk: Images solved at the same time.
        noise_std: Standard deviation of the noise on the [-1, 1] scale.
        seed: Of the measurements and the solvers.
    """

    data: Path
    out: Path
    count: Count = 64
    tasks: tuple[str, ...] = tuple(RESTORATIONS)
    solvers: tuple[str, ...] = ("doc", "doc_paper", "doc_released_code", "dps")
    budgets: tuple[str, ...] = (OWN,)
    chunk: Count = 16
    noise_std: Annotated[float, Range(0)] = 0.05
    seed: Seed = 0


def rows(run: Run) -> list[Row]:
    """Return a row for every task, solver that can, and budget."""
    prior, classifier = assets.digits_prior(), assets.digits_classifier()
    data = Dataset.load(run.data, "x_test", "y_test")
    if run.count > len(data.images):
        raise ValueError(f"--count is {run.count}; there are {len(data.images)}.")
    images, labels = to_unit_range(data.images[: run.count]), data.labels[: run.count]
    settings = {
        "noise_std": run.noise_std,
        "data": fingerprint(data.images),
        "classifier": fingerprint(classifier),
    }
    key = problem_key(run.seed)
    made = []
    for task in run.tasks:
        examples = Restorations(task, images, labels, classifier, run.noise_std, key)
        first = examples.problem(0)
        for name, budget in product(_names(run), run.budgets):
            adapt = lookup("solver", name, SOLVERS).adapt
            solver = solver_within(budget, name, task)
            if solver and _can_take(solver, first, adapt(prior)):
                labels_of_row = {"task": task, "solver": name, "budget": budget}
                row = Row(labels_of_row, prior, solver, examples, settings, adapt)
                made.append(row)
    return made


def _names(run: Run) -> tuple[str, ...]:
    return tuple(SOLVERS) if run.solvers == (ALL,) else run.solvers


def _can_take(solver: Solver, problem: Problem, prior: Any) -> bool:
    try:
        check_inputs(problem, prior, solver)
    except TypeError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or render and return the exit code."""
    return command("digits", Run, compute, render, arguments)


def compute(run: Run, terminal: Terminal) -> None:
    """Compute what is missing."""
    made = rows(run)
    asked = product(run.tasks, _names(run), run.budgets)
    left_out = set(asked) - {tuple(row.labels.values()) for row in made}
    for labels in sorted(left_out):
        terminal.note(f"{' '.join(labels)}: left out, cannot be done.")
    run_rows(
        made,
        Results(run.out),
        terminal,
        seed=run.seed,
        count=run.count,
        chunk=run.chunk,
    )


if __name__ == "__main__":
    sys.exit(main())
