"""The loop of every experiment: rows of a table, images in chunks, one file each.

Image i is measured and solved with keys that depend on the seed and i alone, so results
depend neither on the chunks nor on where a run was interrupted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from diffctl.cli import manifest
from diffctl.cli.solver_table import as_it_is
from diffctl.cli.terminal import Terminal
from diffctl.cli.timing import Timed
from diffctl.core import Solver
from diffctl.host import Count, check_value
from diffctl.solvers import listen
from experiments.common import environment
from experiments.common.solving import (
    Cost,
    Examples,
    Programs,
    count_calls,
    seconds_per_call,
)
from experiments.common.store import Results

_SECONDS_HOW = (
    "wall time of the chunk's compiled program, compilation and scoring excluded"
)
# A chunk that takes longer reports its steps, by a callback that costs a little.
_LIVE_FROM = 30.0
_A_DAY = 86400.0


@dataclass(frozen=True)
class Row:
    """One row of a table: a solver on one kind of problem.

    Attributes:
        labels: what names it, e.g. task and solver.
        prior: of the images, which makes the network calls.
        solver: with its settings.
        examples: ids of images -> their problems.
        settings: whatever else decides the result, as JSON.
        adapt: prior -> the prior that the solver takes.
    """

    labels: Mapping[str, Any]
    prior: Any
    solver: Solver
    examples: Callable[[np.ndarray], Examples]
    settings: Mapping[str, Any]
    adapt: Callable[[Any], Any] = as_it_is


@dataclass(frozen=True)
class Job:
    """Images of a row that are solved together; `seconds` is the expected time."""

    row: Row
    ids: np.ndarray
    settings: Mapping[str, Any]
    cost: Cost
    seconds: float

    @property
    def calls(self) -> int:
        """Network calls of all images."""
        return len(self.ids) * self.cost.calls


def run_rows(
    rows: list[Row],
    results: Results,
    terminal: Terminal,
    *,
    seed: int,
    count: int,
    chunk: int,
) -> int:
    """Compute what is missing for images 0, ..., count - 1 of every row.

    Says first what it is expected to cost.

    Returns:
        How many files were written.

    Raises:
        ValueError: a number is out of range, or files of other settings are in the way.
    """
    check_value(count, Count, "--count")
    check_value(chunk, Count, "--chunk")
    pending = _pending(rows, results, seed, count)
    jobs = _plan(pending, seed, chunk)
    _announce(jobs, terminal)
    with terminal.progress() as progress:
        # The remaining time follows from the whole run, not from the last 30 s.
        progress.speed_estimate_period = _A_DAY
        _run(jobs, results, progress, seed)
    return len(jobs)


def _pending(
    rows: list[Row], results: Results, seed: int, count: int
) -> list[tuple[Row, np.ndarray]]:
    pending = []
    for row in rows:
        done = results.done(row.labels, settings_of(row, seed))
        missing = np.setdiff1d(np.arange(count), sorted(done))
        if len(missing):
            pending.append((row, missing))
    return pending


def _plan(pending: list[tuple[Row, np.ndarray]], seed: int, chunk: int) -> list[Job]:
    """Cut the missing images into chunks and forecast each."""
    per_call: dict[int, tuple[float, float]] = {}
    jobs = []
    for row, missing in pending:
        prior, size = row.prior, min(chunk, len(missing))
        if id(prior) not in per_call:
            per_call[id(prior)] = seconds_per_call(prior, size)
        cost, settings = count_calls(row.solver, row.adapt), settings_of(row, seed)
        each = cost.seconds(per_call[id(prior)])
        for start in range(0, len(missing), chunk):
            ids = missing[start : start + chunk]
            jobs.append(Job(row, ids, settings, cost, each * len(ids)))
    return jobs


def _announce(jobs: list[Job], terminal: Terminal) -> None:
    expected: dict[str, tuple[int, Cost, float]] = {}
    for job in jobs:
        images, _, spent = expected.get(_name(job.row), (0, job.cost, 0.0))
        total = images + len(job.ids), job.cost, spent + job.seconds
        expected[_name(job.row)] = total
    for name, (images, cost, spent) in expected.items():
        terminal.note(
            f"{name}: {images} images x ({cost.forwards} forwards + {cost.vjps} VJPs), "
            f"about {duration(spent)}"
        )
    total_seconds = sum(job.seconds for job in jobs)
    terminal.note(
        f"{len(jobs)} files to compute, about {duration(total_seconds)} of network "
        "calls at the speed just measured; compilation comes on top."
    )


def _run(jobs: list[Job], results: Results, progress: Progress, seed: int) -> None:
    thousands = sum(job.calls for job in jobs) / 1000
    bar = progress.add_task("", total=thousands)
    programs, key, done = Programs(), solver_key(seed), 0.0
    machine = environment.record()
    for job in jobs:
        progress.update(bar, description=f"{_name(job.row)}, thousand calls")
        share = job.calls / 1000

        def on_step(
            step: int, steps: int, done: float = done, share: float = share
        ) -> None:
            progress.update(bar, completed=done + share * step / steps)

        examples = job.row.examples(job.ids)
        ids = jnp.asarray(job.ids)
        args = (key, examples, job.row.adapt(job.row.prior), job.row.solver, ids)
        if job.seconds > _LIVE_FROM:
            with listen(on_step):
                spent = programs.solve(*args)
        else:
            spent = programs.solve(*args)
        results.write(record(job, examples, spent) | {"environment": machine})
        done += share
        progress.update(bar, completed=done)


def record(job: Job, examples: Examples, spent: Timed) -> dict[str, Any]:
    """Return what is written of a job that was computed."""
    solution = spent.result
    numbers = {
        **examples.score(solution.x),
        "status": solution.status,
        "forwards": solution.stats.nfe_fwd,
        "vjps": solution.stats.nvjp,
    }
    return {
        "labels": dict(job.row.labels),
        "ids": job.ids.tolist(),
        "settings": job.settings,
        "images": {name: np.asarray(v).tolist() for name, v in numbers.items()},
        "seconds": spent.running,
        "seconds_how": _SECONDS_HOW,
        "compiling_seconds": spent.compiling,
    }


def problem_key(seed: int) -> jax.Array:
    """Return the key of everything that is drawn to pose the problems."""
    return jax.random.split(jax.random.key(seed))[0]


def solver_key(seed: int) -> jax.Array:
    """Return the key of the solvers: the same for all, so that rows are paired."""
    return jax.random.split(jax.random.key(seed))[1]


def settings_of(row: Row, seed: int) -> dict[str, Any]:
    """Return what decides the results of a row, as JSON."""
    return {
        **row.settings,
        "seed": seed,
        "key": "fold_in(split(key(seed))[1], id)",
        "prior": environment.fingerprint(row.prior),
        "solver": manifest.describe(row.solver),
        "solver_arrays": environment.fingerprint(row.solver),
    }


def _name(row: Row) -> str:
    return " ".join(str(value) for value in row.labels.values())


def duration(seconds: float) -> str:
    """Return a time in words, to the second or, from an hour on, to the minute."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
