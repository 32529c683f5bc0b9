"""Train small generative models on digits and restore digits with them.

python -m experiments.generative --data mnist.npz --out runs/generative
python -m experiments.generative table --out runs/generative
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from diffctl import assets
from diffctl.cli.names import lookup
from diffctl.cli.terminal import Terminal
from diffctl.host import Count, Range, Seed
from diffctl.operators import Problem
from diffctl.priors.storage import read_description
from diffctl.training.data import Dataset, to_unit_range
from experiments.common import Restorations, Results, Row, command
from experiments.common.environment import fingerprint
from experiments.common.environment import record as machine
from experiments.common.runner import (
    Job,
    problem_key,
    record,
    settings_of,
    solver_key,
)
from experiments.common.solving import Cost, Programs
from experiments.digits.table import render
from experiments.generative.models import MODELS, Model, fit

_READ_EVERY = 20


@dataclass(frozen=True)
class Run:
    """Train the models that are not there, then restore test digits with each.

    Attributes:
        data: An .npz file with uint8 images x_train, x_test (N, 28, 28, 1) and y_test.
        out: Folder for models and results; a second run goes on where the first ended.
        models: Which; see `experiments.generative.models`.
        task: A restoration whose operator is the same for all images.
        count: Images, the first of x_test.
        num_steps: Of every training.
        batch_size: Of every training.
        noise_std: Standard deviation of the noise on the [-1, 1] scale.
        seed: Of the trainings, the measurements and the solvers.
    """

    data: Path
    out: Path
    models: tuple[str, ...] = tuple(MODELS)
    task: str = "super_resolution_x4"
    count: Count = 16
    num_steps: Count = 2000
    batch_size: Count = 64
    noise_std: Annotated[float, Range(0)] = 0.05
    seed: Seed = 0


def compute(run: Run, terminal: Terminal) -> None:
    """Compute what is missing."""
    chosen = {name: lookup("model", name, MODELS) for name in run.models}
    examples = _examples(run)
    if examples(np.arange(1)).axes.operator is not None:
        raise ValueError(
            f"--task is {run.task!r}, which draws an operator for each image; choose "
            "one with a single operator, such as super_resolution_x4."
        )
    problems = examples(np.arange(1)).problems
    problem = Problem(y=problems.y[0], operator=problems.operator, noise=problems.noise)
    with terminal.progress() as progress:
        for name, model in chosen.items():
            prior = _trained(run, name, model, problem, terminal, progress)
            _restore(run, name, model, prior, examples)


def _examples(run: Run) -> Restorations:
    data = Dataset.load(run.data, "x_test", "y_test")
    if run.count > len(data.images):
        raise ValueError(f"--count is {run.count}; there are {len(data.images)}.")
    images, labels = to_unit_range(data.images[: run.count]), data.labels[: run.count]
    return Restorations(
        run.task,
        images,
        labels,
        assets.digits_classifier(),
        run.noise_std,
        problem_key(run.seed),
    )


def _trained(
    run: Run,
    name: str,
    model: Model,
    problem: Problem,
    terminal: Terminal,
    progress: Progress,
) -> Any:
    """Return a trained prior from disk, or train and save it."""
    # Amortised networks know one operator and one noise level.
    folder, settings = run.out / "models" / f"{name}.{run.task}", _training(run)
    if folder.is_dir():
        _check_same(folder, settings)
        return model.prior.restore(folder)
    bar = progress.add_task(f"training {name}", total=run.num_steps)

    def on_step(state: Any, loss: jax.Array) -> None:
        step = int(state.step)
        if step % _READ_EVERY == 0:
            text = f"training {name}, loss {float(loss):.3f}"
            progress.update(bar, completed=step, description=text)

    started = time.monotonic()
    prior = fit(
        model,
        problem,
        Dataset.load(run.data, "x_train"),
        num_steps=run.num_steps,
        batch_size=run.batch_size,
        seed=run.seed,
        on_step=on_step,
    )
    spent = round(time.monotonic() - started, 1)
    prior.save(
        folder,
        notes=settings | {"training_seconds": spent},
    )
    terminal.note(f"{name}: trained in {spent:.0f} s, compilation included.")
    return prior


def _training(run: Run) -> dict[str, Any]:
    """Return what decides a trained model, as JSON."""
    names = ("num_steps", "batch_size", "seed", "noise_std")
    chosen = {name: getattr(run, name) for name in names}
    return chosen | {"images": fingerprint(Dataset.load(run.data, "x_train").images)}


def _check_same(folder: Path, settings: dict[str, Any]) -> None:
    """Raise unless a model was trained as now asked for, as far as it says how."""
    notes = read_description(folder).get("notes")
    found = notes if isinstance(notes, dict) else {}
    differing = [n for n, value in settings.items() if found.get(n, value) != value]
    if differing:
        raise ValueError(
            f"{folder} was trained with other settings ({', '.join(differing)}); "
            "delete it to train it anew, or choose another --out."
        )


def _restore(
    run: Run, name: str, model: Model, prior: Any, examples: Restorations
) -> None:
    """Write results of all solvers of a model on the images that have none."""
    results, programs = Results(run.out), Programs()
    settings = {"noise_std": run.noise_std, "images": fingerprint(examples.images)}
    for title, solver in model.solvers.items():
        labels = {"task": run.task, "model": name, "solver": title}
        row = Row(labels, prior, solver, examples, settings)
        decided = settings_of(row, run.seed)
        done = results.done(labels, decided)
        ids = np.setdiff1d(np.arange(run.count), sorted(done))
        if not len(ids):
            continue
        posed = examples(ids)
        job = Job(row, ids, decided, Cost(forwards=0, vjps=0), 0.0)
        spent = programs.solve(
            solver_key(run.seed), posed, prior, solver, jnp.asarray(ids)
        )
        results.write(record(job, posed, spent) | {"environment": machine()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or render and return the exit code."""
    return command("generative", Run, compute, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
