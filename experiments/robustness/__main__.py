"""Run the robustness experiment, or render its table.

python -m experiments.robustness --out runs/robustness
python -m experiments.robustness table --out runs/robustness
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from diffctl.cli.terminal import Terminal
from diffctl.host import Count, Range, Seed
from experiments.common import Results, command, run_rows
from experiments.robustness.studies import STUDIES, rows
from experiments.robustness.table import render


@dataclass(frozen=True)
class Run:
    """Solve with few and many levels; images that have results already are skipped.

    Attributes:
        out: Folder for the results; a second run goes on where the first ended.
        count: Images of each row, at most 32: the digits of the package.
        levels: Numbers of noise levels.
        studies: mixture (exact), digits, random_network (untrained, on digits).
        tasks: Restorations of the digits; `diffctl list` names them.
        solvers: doc, doc_paper, dps.
        chunk: Images solved at the same time.
        noise_std: Standard deviation of the noise on the [-1, 1] scale.
        seed: Of the measurements and the solvers.
    """

    out: Path
    count: Annotated[int, Range(1, 32)] = 8
    levels: tuple[Count, ...] = (5, 10, 20, 50)
    studies: tuple[str, ...] = tuple(STUDIES)
    tasks: tuple[str, ...] = ("super_resolution_x4", "random_inpainting")
    solvers: tuple[str, ...] = ("doc", "dps")
    chunk: Count = 8
    noise_std: Annotated[float, Range(0)] = 0.05
    seed: Seed = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or render and return the exit code."""
    return command("robustness", Run, compute, render, arguments)


def compute(run: Run, terminal: Terminal) -> None:
    """Compute what is missing."""
    made = rows(
        run.studies, run.tasks, run.solvers, run.levels, run.noise_std, run.seed
    )
    run_rows(
        list(made),
        Results(run.out),
        terminal,
        seed=run.seed,
        count=run.count,
        chunk=run.chunk,
    )


if __name__ == "__main__":
    sys.exit(main())
