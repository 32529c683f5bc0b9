"""Run the Gaussian-mixture benchmark, or render its table and figures.

python -m experiments.gmm_benchmark --out runs/gmm
python -m experiments.gmm_benchmark --out runs/gmm_small --dims 8 --problems 3
python -m experiments.gmm_benchmark table --out runs/gmm
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from diffctl.cli.names import lookup
from diffctl.cli.terminal import Terminal
from diffctl.host import Count, Positive, Seed
from experiments.common import Results, command
from experiments.gmm_benchmark.problems import Family, check_cell
from experiments.gmm_benchmark.runner import Plan, run_plan
from experiments.gmm_benchmark.samplers import SAMPLERS, with_levels
from experiments.gmm_benchmark.table import render


@dataclass(frozen=True)
class Run:
    """Sample exact posteriors; problems that have results already are skipped.

    Attributes:
        out: Folder for the results; a second run goes on where the first ended.
        dims: Dimensions d of the signal, even.
        measurements: Numbers d_y of measurements.
        problems: Problems of each pair of d and d_y.
        samples: Samples of each problem and sampler.
        samplers: Names from the table of samplers.
        levels: Noise levels of a sampler with one network call a level.
        directions: Of the sliced distance; 10,000 published.
        uniform_weights: Clusters of equal weights instead of squares of normals.
        noise_std: Of the measurements; drawn for each problem by default.
        seed: Of the problems and the samplers.
    """

    out: Path
    dims: tuple[Count, ...] = (8, 80, 800)
    measurements: tuple[Count, ...] = (1, 2, 4)
    problems: Count = 20
    samples: Count = 1000
    samplers: tuple[str, ...] = tuple(SAMPLERS)
    levels: Count = 100
    directions: Count = 1000
    uniform_weights: bool = False
    noise_std: Positive | None = None
    seed: Seed = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or render and return the exit code."""
    return command("gmm_benchmark", Run, compute, render, arguments)


def compute(run: Run, terminal: Terminal) -> None:
    """Compute what is missing."""
    plan = Plan(
        family=Family(
            uniform_weights=run.uniform_weights, noise_std=run.noise_std, seed=run.seed
        ),
        cells=list(product(run.dims, run.measurements)),
        samplers={
            name: with_levels(lookup("sampler", name, SAMPLERS), run.levels)
            for name in run.samplers
        },
        num_problems=run.problems,
        num_samples=run.samples,
        num_directions=run.directions,
    )
    for cell in plan.cells:  # all of them before the first one is computed
        check_cell(*cell)
    run_plan(plan, Results(run.out), terminal)


if __name__ == "__main__":
    sys.exit(main())
