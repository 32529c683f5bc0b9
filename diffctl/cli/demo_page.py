"""What the demo leaves: the page, the figure, the numbers and a table to read now."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from diffctl.cli.demo_problems import Group
from diffctl.cli.demo_results import Result
from diffctl.cli.task_table import TASKS
from diffctl.cli.terminal import Terminal
from diffctl.host import to_json
from diffctl.report import Comparison, Page, Row, comparison_figure

_COLUMNS = ("Truth", "Measurement", "DOC", "DPS")
_TABLE = (
    "task", "solver", "PSNR, dB", "SSIM", "misfit", "recognised", "forwards", "VJPs",
    "s / image",
)  # fmt: skip


def title_of(task: str) -> str:
    """Return the name of a task for people."""
    return task.replace("_x4", " ×4").replace("_", " ").capitalize()


def sentence(summary: str) -> str:
    """Return a summary as a sentence."""
    return f"{summary[:1].upper()}{summary[1:]}."


def write(
    folder: Path, groups: list[Group], results: list[Result], document: dict[str, Any]
) -> None:
    """Write `report.html`, `figure.png` and `results.json`."""
    comparison = _comparison(groups, results)
    figure = comparison_figure(
        comparison,
        title="Diffusion Optimal Control and DPS on handwritten digits",
        subtitle="Noise std 0.05 on images in [-1, 1]. Under each reconstruction: "
        "PSNR. Last line: drawn from a class alone.",
    )
    (folder / "figure.png").write_bytes(figure)
    page = _page(comparison, results, document)
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "results.json").write_text(to_json(document))


def print_table(terminal: Terminal, results: list[Result]) -> None:
    """Print the means per task and solver."""
    table = Table(title="diffctl demo", title_justify="left", header_style="bold")
    for i, name in enumerate(_TABLE):
        table.add_column(name, justify="left" if i < 2 else "right")
    previous = None
    for cells in _cells(results):
        if previous not in (None, cells[0]):
            table.add_section()
        table.add_row(*("" if cells[0] == previous else cells[0], *cells[1:]))
        previous = cells[0]
    terminal.out.print(table)


def _comparison(groups: list[Group], results: list[Result]) -> Comparison:
    found = {(result.task, result.solver): result for result in results}
    rows = []
    for group in groups:
        solved = [found[group.task, name] for name in _COLUMNS[2:]]
        for i in range(len(group.labels)):
            pictures = {
                "Truth": None if group.truth is None else group.truth[i],
                "Measurement": None if group.pictures is None else group.pictures[i],
            } | {result.solver: result.images[i] for result in solved}
            captions = {result.solver: _caption(result, i) for result in solved}
            if group.truth is None:
                captions["Measurement"] = f"class {group.labels[i]}"
            rows.append(Row(title_of(group.task), pictures, captions))
    return Comparison(columns=_COLUMNS, rows=rows)


def _caption(result: Result, i: int) -> str:
    if result.status[i]:
        return "failed"
    if result.psnr is None:
        return f"seen as {result.classes[i]}"
    return f"{result.psnr[i]:.1f} dB"


def _cells(results: list[Result]) -> list[tuple[str, ...]]:
    """Return the table, solvers of the same task together."""
    ordered = [r for task in TASKS for r in results if r.task == task]
    return [
        (
            title_of(r.task),
            r.solver,
            _mean(r.psnr, ".2f"),
            _mean(r.ssim, ".3f"),
            _mean(r.misfit, ".2f"),
            f"{r.recognised.sum()} / {len(r.recognised)}",
            _mean(r.forwards, ".0f"),
            _mean(r.vjps, ".0f"),
            f"{r.seconds:.2f}",
        )
        for r in ordered
    ]


def _mean(values: np.ndarray | None, form: str) -> str:
    return "–" if values is None else format(float(np.mean(values)), form)


def _page(
    comparison: Comparison, results: list[Result], document: dict[str, Any]
) -> str:
    page = Page(
        "Inverse problems with a diffusion prior",
        "Handwritten digits, measured badly in five ways, and reconstructed twice: by "
        "Diffusion Optimal Control (DOC), which steers the whole reverse diffusion "
        "towards the measurement, and by Diffusion Posterior Sampling (DPS), which "
        "corrects it step by step. Neither saw these digits before.",
    )
    page.cards(_cards(results, document))
    page.heading("What was reconstructed")
    page.paragraph(
        "All pictures have the same grey scale, black is -1 and white is 1. The "
        "number under a reconstruction is its PSNR in dB: 3 dB more is half the "
        "squared error.",
    )
    page.comparison(
        comparison,
        {title_of(name): sentence(task.summary) for name, task in TASKS.items()},
    )
    _add_table(page, results)
    page.heading("How the misfit falls")
    page.curves(
        _curves(results),
        x_label="network calls, forwards and VJPs, spread evenly over the steps",
        y_label="misfit of the clean estimate",
    )
    page.paragraph(
        "Mean over the restoration tasks. DPS judges its estimate of the clean image "
        "along one pass through the noise levels; DOC runs through all levels in every "
        "iteration.",
        style="soft",
    )
    _add_settings(page, document)
    return page.html()


def _cards(results: list[Result], document: dict[str, Any]) -> dict[str, str]:
    cards = {}
    for name in _COLUMNS[2:]:
        own = [r for r in results if r.solver == name]
        scores = np.concatenate([r.psnr for r in own if r.psnr is not None])
        calls = np.concatenate([r.forwards + r.vjps for r in own])
        text = f"{name}: mean PSNR of {len(scores)} restorations, "
        cards[f"{text}{calls.mean():.0f} network calls each"] = (
            f"{scores.mean():.1f} dB"
        )
    seconds = f"for everything on {document['machine']['devices'][0]}, with compilation"
    return cards | {seconds: f"{document['seconds']:.0f} s"}


def _add_table(page: Page, results: list[Result]) -> None:
    page.heading("The numbers")
    page.paragraph(
        "Means over the digits of a task. The misfit is the mean squared residual in "
        "units of the noise variance: the truth has about 1, less is fitting noise. "
        "For guidance it is -log p of the class asked for. Recognised: the digit "
        "classifier sees the right digit. Both solvers make as many steps as by "
        "default. A few digits are an illustration, not a benchmark.",
    )
    cells = _cells(results)
    page.table(_TABLE, cells, text_columns=2, best=_best(cells))


def _best(cells: Sequence[tuple[str, ...]]) -> list[tuple[int, int]]:
    """Return the better entry of each task for PSNR and SSIM."""
    marked = []
    for column in (2, 3):
        for task in {row[0] for row in cells}:
            places = [i for i, row in enumerate(cells) if row[0] == task]
            numbers = [i for i in places if cells[i][column] != "–"]
            scores = {i: float(cells[i][column]) for i in numbers}
            if scores:
                marked.append((max(scores, key=scores.__getitem__), column))
    return marked


def _curves(results: list[Result]) -> dict[str, list[tuple[float, float]]]:
    curves = {}
    for name in _COLUMNS[2:]:
        own = [r for r in results if r.solver == name and r.psnr is not None]
        misfit = np.concatenate([r.misfit_steps for r in own]).mean(0)
        calls = np.concatenate([r.forwards + r.vjps for r in own]).mean()
        x = calls * (np.arange(len(misfit)) + 1) / len(misfit)
        curves[name] = list(zip(x.tolist(), misfit.tolist(), strict=True))
    return curves


def _add_settings(page: Page, document: dict[str, Any]) -> None:
    page.heading("How it was made")
    page.settings(
        {
            "Noise": f"std {document['noise_std']} on images in [-1, 1], which is "
            f"{document['noise_std_unit_range']} on [0, 1]",
            "Seed": document["seed"],
            "Prior": "the U-Net for digits that ships with the package",
            "Versions": ", ".join(f"{k} {v}" for k, v in document["versions"].items()),
            "Machine": f"{document['machine']['platform']}, "
            f"{', '.join(document['machine']['devices'])}",
        }
    )
    page.document("All settings of the solvers", document["solvers"])
    page.document("All results", document["results"])
    page.footer(
        "Made by `diffctl demo`. The same seed on the same machine gives the same "
        "pictures. DOC: Li and Pereira, NeurIPS 2024. DPS: Chung et al., ICLR 2023. "
        "Digits: MNIST."
    )
