"""The loop of the benchmark: problem after problem, every sampler on each.

Problem p of a cell (d, d_y) depends on (seed, d, d_y, p) alone, and so do the exact
samples it is judged by, the directions and the key that all samplers are given. Each
result is a file of its own, so that a run can stop anywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np
from rich.progress import Progress

from diffctl.cli import manifest
from diffctl.cli.terminal import Terminal
from experiments.common import Results
from experiments.common.environment import fingerprint
from experiments.common.environment import record as environment
from experiments.common.runner import duration
from experiments.common.solving import seconds_per_call
from experiments.common.timing import seconds
from experiments.gmm_benchmark.drawing import Draws, Effort, Sampler
from experiments.gmm_benchmark.metrics import Modes, Slices
from experiments.gmm_benchmark.problems import Family, Posed

Cell = tuple[int, int]  # d, d_y

_SECONDS_HOW = "wall time of the compiled program for all samples of a problem"
_RANDOM = "numpy (seed, d, d_y, problem); keys fold_in(key(seed), d, d_y, problem)"
_SCATTERED = 300
_A_DAY = 86400.0


@dataclass(frozen=True)
class Plan:
    """What is computed.

    Attributes:
        family: of the problems.
        cells: pairs (d, d_y).
        samplers: by name.
        num_problems: of each cell.
        num_samples: for each problem and sampler, more than 1.
        num_directions: of the sliced distance.
    """

    family: Family
    cells: Sequence[Cell]
    samplers: Mapping[str, Sampler]
    num_problems: int
    num_samples: int
    num_directions: int

    def settings(self, cell: Cell, name: str) -> dict[str, Any]:
        """Return what decides the results of a sampler on a cell, as JSON."""
        chosen = self.samplers[name].settings(cell[0])
        return {
            "family": asdict(self.family),
            "samples": self.num_samples,
            "directions": self.num_directions,
            "random": _RANDOM,
            "sampler": manifest.describe(chosen),
            "arrays": None if isinstance(chosen, str) else fingerprint(chosen),
        }


@dataclass(frozen=True)
class Job:
    """A problem, the samplers that lack a result on it, and their expected seconds."""

    cell: Cell
    number: int
    expected: Mapping[str, float]


@dataclass(frozen=True)
class Speed:
    """Seconds for all samples of a problem of one size.

    Attributes:
        forward: of a network call.
        vjp: of a VJP of the network.
        normal: of drawing a standard normal vector.
        score: of the judgement.
    """

    forward: float
    vjp: float
    normal: float
    score: float

    @classmethod
    def measure(cls, posed: Posed, num_samples: int, num_directions: int) -> "Speed":
        """Time a few calls."""
        forward, vjp = seconds_per_call(posed.prior, num_samples)
        shape = num_samples, *posed.prior.shape
        draw = jax.jit(lambda key: jax.random.normal(key, shape))
        normal = seconds(draw, jax.random.key(0), repeats=3)
        exact = np.asarray(posed.posterior.sample(jax.random.key(0), num_samples))
        slices = Slices.of(np.random.default_rng(0), exact, num_directions)
        score = seconds(lambda: _distances(posed, slices, exact), repeats=3)
        return cls(forward * num_samples, vjp * num_samples, normal, score)

    def expected(self, effort: Effort) -> float:
        """Return the seconds that a sampler is expected to take, judgement included."""
        calls = self.forward * effort.forwards + self.vjp * effort.vjps
        return calls + self.normal * effort.normals + self.score


def run_plan(plan: Plan, results: Results, terminal: Terminal) -> int:
    """Compute what is missing; says first how long it is expected to take.

    Returns:
        How many files were written.

    Raises:
        ValueError: a number is out of range, or files of other settings are in the way.
    """
    if plan.num_problems < 1 or plan.num_samples < 2 or plan.num_directions < 1:
        raise ValueError(
            f"--problems is {plan.num_problems}, --samples {plan.num_samples}, "
            f"--directions {plan.num_directions}; expected at least 1, 2 and 1."
        )
    jobs = _schedule(plan, results)
    _announce(jobs, terminal)
    with terminal.progress() as progress:
        # The remaining time follows from the whole run, not from the last 30 s.
        progress.speed_estimate_period = _A_DAY
        _run(plan, jobs, results, progress)
    return sum(len(job.expected) for job in jobs)


def labels(cell: Cell, name: str) -> dict[str, Any]:
    """Return what names the results of a sampler on a cell."""
    return {"d": cell[0], "d_y": cell[1], "sampler": name}


def _schedule(plan: Plan, results: Results) -> list[Job]:
    jobs: list[Job] = []
    speeds: dict[int, Speed] = {}
    for cell in plan.cells:
        missing: dict[int, list[str]] = {}
        for name in plan.samplers:
            done = results.done(labels(cell, name), plan.settings(cell, name))
            for number in sorted(set(range(plan.num_problems)) - done):
                missing.setdefault(number, []).append(name)
        if not missing:
            continue
        posed = plan.family.pose(*cell, 0)
        if cell[0] not in speeds:
            speeds[cell[0]] = Speed.measure(
                posed, plan.num_samples, plan.num_directions
            )
        times = {
            name: speeds[cell[0]].expected(sampler.effort(posed, plan.num_samples))
            for name, sampler in plan.samplers.items()
        }
        jobs += [
            Job(cell, number, {name: times[name] for name in names})
            for number, names in sorted(missing.items())
        ]
    return jobs


def _announce(jobs: Sequence[Job], terminal: Terminal) -> None:
    by_size: dict[int, list[float]] = {}
    for job in jobs:
        by_size.setdefault(job.cell[0], []).extend(job.expected.values())
    for size, times in by_size.items():
        terminal.note(f"d = {size}: {len(times)} files, about {duration(sum(times))}")
    everything = [spent for times in by_size.values() for spent in times]
    programs = {(job.cell, name) for job in jobs for name in job.expected}
    terminal.note(
        f"{len(everything)} files to compute, about {duration(sum(everything))} at the "
        f"speed just measured; the compilation of {len(programs)} programs, a few "
        "seconds each, comes on top."
    )


def _run(plan: Plan, jobs: Sequence[Job], results: Results, progress: Progress) -> None:
    bar = progress.add_task("", total=sum(sum(job.expected.values()) for job in jobs))
    machine, cell = environment(), None
    for job in jobs:
        if job.cell != cell:
            # Programs of other shapes would only take up memory from now on.
            jax.clear_caches()
            cell = job.cell
        posed = plan.family.pose(*job.cell, job.number)
        exact_key, key = _keys(plan.family.seed, job)
        exact = np.asarray(posed.posterior.sample(exact_key, plan.num_samples))
        rng = np.random.default_rng([plan.family.seed, *job.cell, job.number, 1])
        slices = Slices.of(rng, exact, plan.num_directions)
        for name, expected in job.expected.items():
            where = f"d {cell[0]}, d_y {cell[1]}, {name}: expected seconds"
            progress.update(bar, description=where)
            draws = plan.samplers[name].draw(key, posed, plan.num_samples)
            found = _record(plan, job, name, draws, _scores(posed, slices, draws))
            results.write(found | {"environment": machine})
            progress.advance(bar, expected)


def _keys(seed: int, job: Job) -> jax.Array:
    """Return the keys of the exact samples and of the samplers."""
    key = jax.random.key(seed)
    for part in (*job.cell, job.number):
        key = jax.random.fold_in(key, part)
    return jax.random.split(key)


def _distances(posed: Posed, slices: Slices, x: np.ndarray) -> dict[str, float]:
    """Return how far samples are from the posterior."""
    found = asdict(Modes.of(x, posed.posterior))
    distances = {"sliced_w1": slices.distance(x), "largest_w2": slices.largest(x)}
    return distances | found


def _scores(posed: Posed, slices: Slices, draws: Draws) -> dict[str, float]:
    """Return the numbers of a result by name."""
    weights = np.asarray(posed.posterior.weights, np.float64)
    entropy = -np.sum(weights * np.log(np.where(weights > 0, weights, 1)))
    return {
        **_distances(posed, slices, draws.samples),
        "effective_modes": float(np.exp(entropy)),
        "forwards": draws.forwards,
        "vjps": draws.vjps,
        "failed": draws.failed,
        "status": int(draws.failed > 0),
    }


def _record(
    plan: Plan, job: Job, name: str, draws: Draws, scores: Mapping[str, float]
) -> dict[str, Any]:
    """Return what is written of a result; its problem is what others call an image."""
    found = {
        "labels": labels(job.cell, name),
        "ids": [job.number],
        "settings": plan.settings(job.cell, name),
        "images": {measure: [value] for measure, value in scores.items()},
        "seconds": draws.running,
        "seconds_how": _SECONDS_HOW,
        "compiling_seconds": draws.compiling,
    }
    if job.number == 0:
        seen = draws.samples[:_SCATTERED, :2].astype(np.float64)
        found["scatter"] = np.round(seen, 3).tolist()
    return found
