"""`diffctl reconstruct`: one picture, one task, one solver, and how it was done."""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress, TaskID

from diffctl import assets
from diffctl.cli import manifest
from diffctl.cli.demo_page import sentence
from diffctl.cli.images import Expected, looks_inverted, read_picture
from diffctl.cli.names import lookup
from diffctl.cli.options import Reconstruct
from diffctl.cli.solver_check import check_named
from diffctl.cli.solver_table import SOLVERS, SolverChoice
from diffctl.cli.task_table import TASKS
from diffctl.cli.tasks import Posed, Request, Restoration, Task
from diffctl.cli.terminal import Outcome, Terminal
from diffctl.cli.timing import Timed, timed
from diffctl.cli.unfinished import Unfinished
from diffctl.core import Solution, Solver
from diffctl.host import Place, claimed, naming, to_json
from diffctl.metrics import psnr, ssim
from diffctl.priors import NetworkPrior
from diffctl.report import Comparison, Page, Row, require_pictures, to_png
from diffctl.solvers import check, solve_stepwise
from diffctl.solvers.stepwise import SolveState, start

# Options that do not change the result; the files are recorded by their digests.
_FREE = ("out", "image", "prior", "overwrite", "resume", "json", "debug")
_SECONDS_BETWEEN_CHECKPOINTS = 20.0


def run(command: Reconstruct, terminal: Terminal) -> Outcome:
    """Write `reconstruction.png`, `measurement.png`, `report.html`, `manifest.json`."""
    task = lookup("task", command.task, TASKS)
    choice = lookup("solver", command.solver, SOLVERS)
    require_pictures()
    with claimed(command.out, overwrite=command.overwrite, say=terminal.note) as place:
        document = _reconstruct(command, task, choice, place, terminal)
    for name, value in document["scores"].items():
        terminal.out.print(f"{name}: {value}")
    terminal.wrote(command.out)
    return Outcome({"out": str(command.out)} | document)


def _reconstruct(
    command: Reconstruct,
    task: Task,
    choice: SolverChoice,
    place: Place,
    terminal: Terminal,
) -> dict[str, Any]:
    """Solve, publish the folder and return its manifest."""
    prior = NetworkPrior.restore(command.prior) if command.prior else _shipped()
    prior = _of_class(prior, command.label, task)
    problem_key, solver_key = jax.random.split(jax.random.key(command.seed))
    request = Request(
        shape=prior.shape,
        key=problem_key,
        noise_std=command.noise_std,
        image=_read(command, prior, problem_key, terminal),
        measured=command.measured,
        label=command.label,
    )
    posed = task.pose(request)
    solver = choice.build(command.task, command.steps)
    check_named(command.solver, solver, command.task, posed.problem, prior)
    settings, adapted = _settings(command), choice.adapt(prior)
    with Unfinished.open(place, settings, resume=command.resume) as unfinished:
        solve = partial(_solve, unfinished, solver_key, posed, adapted, solver)
        with terminal.progress() as progress:
            bar = progress.add_task("compiling", total=None)
            spent = timed(partial(solve, progress, bar))
        check(spent.result)
        document = _document(settings, posed, prior, solver, spent)
        if adapted is not prior:
            document["regulariser"] = manifest.describe(adapted)
        folder = place.scratch()
        with naming(place.out):
            _write(folder, command, posed, spent.result, document)
        place.publish(folder)
        unfinished.remove()
    return document


def _shipped() -> NetworkPrior:
    return assets.digits_prior()


def _of_class(prior: NetworkPrior, label: int | None, task: Task) -> NetworkPrior:
    """Condition the prior on --label if it knows classes.

    Raises:
        ValueError: the prior lacks its label, or nothing uses the label.
    """
    if prior.num_classes:
        return prior.of_class(label)
    if label is not None and not task.takes_label:
        raise ValueError(
            "This task takes no --label: the prior knows no classes, and only "
            "class_guidance draws an image of one."
        )
    return prior


def _read(
    command: Reconstruct, prior: NetworkPrior, key: jax.Array, terminal: Terminal
) -> Any:
    """Return the picture in [-1, 1] after comparing its shape, or None.

    What is odd about it is said on the terminal.
    """
    if command.image is None:
        return None
    expected = Expected(prior.shape, "the prior")
    task = TASKS[command.task]
    if command.measured and isinstance(task, Restoration):
        shape = task.operator(prior.shape, key).measurement_spec().shape
        expected = Expected(shape, "a measurement of this task with this prior")
    picture = read_picture(command.image, expected)
    image = picture.image()
    doubts = picture.doubts()
    if image.shape == prior.shape and looks_inverted(prior, image):
        doubts.append(
            "looks inverted: the prior knows its negative much better. If black and "
            "white are swapped, invert it."
        )
    for doubt in doubts:
        terminal.note(f"diffctl: warning: {command.image} {doubt}")
    return image


def _settings(command: Reconstruct) -> dict[str, Any]:
    chosen = {k: v for k, v in dataclasses.asdict(command).items() if k not in _FREE}
    if command.image:
        chosen["image_sha256"] = manifest.digest(command.image)
    if command.prior:
        chosen["prior_sha256"] = manifest.digest_of_model(command.prior)
    return chosen


def _solve(
    unfinished: Unfinished,
    key: jax.Array,
    posed: Posed,
    prior: Any,
    solver: Solver,
    progress: Progress,
    bar: TaskID,
) -> Solution:
    last_save = time.monotonic()

    def on_step(state: SolveState) -> None:
        nonlocal last_save
        step, total = int(state.step), state.trace.misfit.shape[0]
        progress.update(bar, completed=step, total=total, description="solving")
        if time.monotonic() - last_save > _SECONDS_BETWEEN_CHECKPOINTS:
            unfinished.save(state)
            last_save = time.monotonic()

    like = jax.eval_shape(start, key, posed.problem, prior, solver)
    return solve_stepwise(
        key,
        posed.problem,
        prior,
        solver,
        on_step=on_step,
        resume=unfinished.restore(like),
    )


def _document(
    settings: dict[str, Any],
    posed: Posed,
    prior: NetworkPrior,
    solver: Solver,
    spent: Timed,
) -> dict[str, Any]:
    solution: Solution = spent.result
    return {
        "settings": settings,
        "key": np.asarray(
            jax.random.key_data(jax.random.key(settings["seed"]))
        ).tolist(),
        "noise_std_unit_range": settings["noise_std"] / 2,
        "solver": manifest.describe(solver),
        "prior": {
            "architecture": prior.architecture.to_json(),
            "shape": list(prior.shape),
        },
        "scores": _scores(posed, solution),
        "calls": {
            "forwards": int(solution.stats.nfe_fwd),
            "vjps": int(solution.stats.nvjp),
            "jvps": int(solution.stats.njvp),
        },
        "timings": {
            "compiling_seconds": round(spent.compiling, 2),
            "running_seconds": round(spent.running, 2),
        },
        "versions": manifest.versions(),
        "machine": manifest.machine(),
    }


def _scores(posed: Posed, solution: Solution) -> dict[str, float]:
    scores = {"misfit": posed.problem.misfit(solution.x)}
    if posed.truth is not None:
        scores["psnr"] = psnr(solution.x, posed.truth)
        scores["ssim"] = ssim(solution.x, posed.truth)
    finite = {name: float(value) for name, value in scores.items()}
    return {name: round(v, 4) for name, v in finite.items() if np.isfinite(v)}


def _write(
    folder: Path,
    command: Reconstruct,
    posed: Posed,
    solution: Solution,
    document: dict[str, Any],
) -> None:
    pictures = {"Reconstruction": np.asarray(solution.x)}
    y = posed.problem.y
    if jnp.ndim(y) == 3:
        pictures = {"Measurement": np.asarray(y)} | pictures
    for name, picture in pictures.items():
        (folder / f"{name.lower()}.png").write_bytes(to_png(picture))
    if posed.truth is not None:
        pictures = {"Truth": np.asarray(posed.truth)} | pictures
    (folder / "manifest.json").write_text(to_json(document))
    html = _page(command, pictures, solution, document)
    (folder / "report.html").write_text(html, encoding="utf-8")


def _page(
    command: Reconstruct,
    pictures: dict[str, np.ndarray],
    solution: Solution,
    document: dict[str, Any],
) -> str:
    task = command.task.replace("_", " ").capitalize()
    page = Page(task, f"Reconstructed by {SOLVERS[command.solver].summary}.")
    calls, timings = document["calls"], document["timings"]
    scores = {name.upper(): f"{v:.2f}" for name, v in document["scores"].items()}
    page.cards(
        scores
        | {"forwards and VJPs of the network": f"{calls['forwards']} + {calls['vjps']}"}
        | {"running time": f"{timings['running_seconds']:.1f} s"}
    )
    row = Row(task, pictures, {})
    page.comparison(
        Comparison(columns=list(pictures), rows=[row]),
        {task: sentence(TASKS[command.task].summary)},
    )
    page.paragraph(
        "Black is -1 and white is 1 in every picture; values outside are clipped.",
        style="soft",
    )
    misfit = np.asarray(solution.stats.misfit)
    page.heading("How the misfit falls")
    page.curves(
        {command.solver: [(i + 1.0, float(v)) for i, v in enumerate(misfit)]},
        x_label="steps of the solver",
        y_label="-log p(y | x)",
    )
    page.heading("How it was made")
    std, unit_std = command.noise_std, document["noise_std_unit_range"]
    page.settings(
        {
            "Noise": f"std {std} on images in [-1, 1], which is {unit_std} on [0, 1]",
            "Seed": command.seed,
            "Versions": ", ".join(f"{k} {v}" for k, v in document["versions"].items()),
        }
    )
    page.document("Everything, as in manifest.json", document)
    return page.html()
