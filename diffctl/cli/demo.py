"""`diffctl demo`: digits from the package, two solvers, one page."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from rich.progress import Progress

from diffctl import assets
from diffctl.cli import demo_page, manifest
from diffctl.cli.demo_problems import Group, norm_and_class, pose
from diffctl.cli.demo_results import Result, measure
from diffctl.cli.devices import mesh_for
from diffctl.cli.options import Demo
from diffctl.cli.task_table import TASKS
from diffctl.cli.terminal import Outcome, Terminal
from diffctl.cli.timing import timed
from diffctl.core import Solver
from diffctl.diffusion import ddpm
from diffctl.host import first_free, new_folder
from diffctl.report import require_pictures
from diffctl.solvers import DOC, DPS, solve_batch

NOISE_STD = 0.05

# The defaults of both: a minute on two CPU cores.
_LEVELS, _ITERATIONS = 50, 3
_DPS_STEPS = 1000
_GUIDANCE_SCALE = 1.0  # of DPS on -log p(class), in its own units


@dataclass(frozen=True)
class Budget:
    """How much a solver of the demo may do; tests make it small."""

    levels: int = _LEVELS
    iterations: int = _ITERATIONS
    dps_steps: int = _DPS_STEPS


def run(command: Demo, terminal: Terminal, budget: Budget = Budget()) -> Outcome:
    """Run the demo and write `report.html`, `figure.png` and `results.json`."""
    started = time.perf_counter()
    out = command.out or first_free("diffctl-demo")
    require_pictures()
    with new_folder(out, overwrite=command.overwrite, say=terminal.note) as scratch:
        with terminal.progress() as progress:
            groups, results = _solve_all(command, progress, budget)
        seconds = time.perf_counter() - started
        document = _document(command, results, seconds)
        demo_page.write(scratch, groups, results, document)
    demo_page.print_table(terminal, results)
    page = (out / "report.html").resolve()
    terminal.wrote(page, f"\n{seconds:.0f} s. Open ")
    return Outcome({"out": str(out), "page": str(page)} | document)


def _document(command: Demo, results: list[Result], seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 1),
        "seed": command.seed,
        "noise_std": NOISE_STD,
        "noise_std_unit_range": NOISE_STD / 2,
        "versions": manifest.versions(),
        "machine": manifest.machine(),
        "solvers": {r.solver: manifest.describe(r.settings) for r in results},
        "results": [result.to_json() for result in results],
    }


def _solve_all(
    command: Demo, progress: Progress, budget: Budget
) -> tuple[list[Group], list[Result]]:
    bar = progress.add_task("loading", total=2 * len(TASKS))
    prior = assets.digits_prior()
    problem_key, solver_key = jax.random.split(jax.random.key(command.seed))
    groups = pose(prior, problem_key, command.digits, NOISE_STD)
    results: list[Result] = []
    mesh = mesh_for(command.digits)
    for name, group, solver in _plan(groups, budget):
        is_first = not any(result.solver == name for result in results)
        stage = "compiling" if is_first else group.task
        progress.update(bar, description=f"{name}, {stage}")
        # Examples are named by task and place, so that each has a key of its own.
        ids = jnp.arange(command.digits) + 1000 * groups.index(group)
        args = (solver_key, group.problems, prior, solver)
        solve = partial(solve_batch, *args, ids=ids, mesh=mesh)
        results.append(measure(name, solver, group, timed(solve)))
        progress.advance(bar)
    return groups, results


def _plan(groups: list[Group], budget: Budget) -> Iterator[tuple[str, Group, Solver]]:
    """Yield solver by solver, so that each is compiled once."""
    doc = DOC.default(num_levels=budget.levels, num_steps=budget.iterations)
    for group in groups:
        yield "DOC", group, replace(doc, **TASKS[group.task].doc_settings)
    for group in groups:
        yield "DPS", group, _dps(group.task, budget.dps_steps)


def _dps(task: str, num_steps: int) -> DPS:
    """Return DPS with the published scale of the task, as one program for all."""
    scale = _GUIDANCE_SCALE
    if task != "class_guidance":
        scale = DPS.released_code(task).guidance_scale
    return DPS(
        grid=ddpm(num_steps), guidance_scale=jnp.asarray(scale), cost=norm_and_class
    )
