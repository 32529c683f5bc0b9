"""The figure: PSNR against network calls, a panel for each task, a line a solver."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffctl.report.figure import INK, RULE, SOFT, blank_figure, save
from experiments.common.restoration import RESTORATIONS
from experiments.common.table import Summary
from experiments.digits.budgets import OWN

_NAME = "psnr_by_calls.png"
_COLUMNS = 3
_FEWEST_CALLS = 4  # the left edge; whoever makes none is a line across the panel
_GREY = "#c9ced8"
# Lines that have a colour of their own; the others are grey.
_COLOURS = {
    "doc": "#c2502e",
    "doc_released_code": "#e0a08c",
    "dps": "#0b6e63",
    "pigdm_paper": "#3a6ea5",
    "pnp_admm": "#7a4fa3",
    "red_diff": "#b58a1b",
    "daps": "#4f4f4f",
    "ddnm_plus_simplified": "#5fae8b",
}


class _Mark(NamedTuple):
    calls: float
    psnr: float
    own: bool  # at its own settings, not at a budget


def write_figure(out: Path, summaries: Sequence[Summary]) -> list[str]:
    """Write the figure as a PNG file and return its name. Needs matplotlib."""
    present = {summary.labels["task"] for summary in summaries}
    tasks = [task for task in RESTORATIONS if task in present]
    panels = len(tasks) + 1  # the last one is the legend
    columns = min(panels, _COLUMNS)
    rows = -(-panels // columns)
    figure = blank_figure(3.6 * columns, 2.9 * rows, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
    for panel, task in zip(axes, tasks, strict=False):
        own = [summary for summary in summaries if summary.labels["task"] == task]
        panel.set_title(task.replace("_", " "), fontsize=9.5, color=INK)
        _draw(panel, _lines(own))
    for empty in axes[len(tasks) :]:
        empty.set_axis_off()
    _legend(axes[len(tasks)])
    save(figure, out / _NAME)
    return [_NAME]


def _lines(summaries: Sequence[Summary]) -> dict[str, list[_Mark]]:
    """Return the marks of every solver, by calls."""
    lines: dict[str, list[_Mark]] = {}
    for summary in summaries:
        numbers = summary.statistics
        psnr = numbers["psnr"]["mean"]
        calls = (numbers["forwards"]["mean"] or 0) + (numbers["vjps"]["mean"] or 0)
        if psnr is not None:
            mark = _Mark(calls, psnr, summary.labels["budget"] == OWN)
            lines.setdefault(summary.labels["solver"], []).append(mark)
    return {name: sorted(marks) for name, marks in lines.items()}


def _draw(panel: Any, lines: dict[str, list[_Mark]]) -> None:
    without = [marks[0].psnr for marks in lines.values() if not marks[0].calls]
    if without:
        panel.axhline(max(without), color=SOFT, linewidth=1, linestyle=":")
    for name, marks in lines.items():
        if not marks[0].calls:
            continue
        colour, front = _COLOURS.get(name, _GREY), name in _COLOURS
        style = {"color": colour, "zorder": 3 if front else 1}
        panel.plot(*_points(marks), linewidth=1.5 if front else 1, **style)
        for own, shape, size in ((True, "o", 5), (False, ".", 5)):
            some = [mark for mark in marks if mark.own == own]
            panel.plot(*_points(some), shape, markersize=size, **style)
    panel.set(xscale="log")
    panel.set_xlim(left=_FEWEST_CALLS)
    panel.grid(axis="both", color=RULE, linewidth=0.4, alpha=0.7)
    panel.tick_params(labelsize=7.5, colors=SOFT, length=2, labelbottom=True)
    panel.set_xlabel("network calls", fontsize=8, color=SOFT)
    panel.set_ylabel("PSNR, dB", fontsize=8, color=SOFT)
    panel.set_axisbelow(True)
    for spine in panel.spines.values():
        spine.set(color=RULE)


def _points(marks: Sequence[_Mark]) -> tuple[list[float], list[float]]:
    return [mark.calls for mark in marks], [mark.psnr for mark in marks]


def _legend(panel: Any) -> None:
    """Write what the colours and marks mean into an empty panel."""
    for name, colour in {**_COLOURS, "all others": _GREY}.items():
        panel.plot([], [], color=colour, linewidth=2, label=name)
    panel.plot([], [], "o", color=SOFT, markersize=5, label="at its own settings")
    panel.plot([], [], ".", color=SOFT, markersize=5, label="at a budget")
    panel.plot([], [], ":", color=SOFT, label="best without a network")
    panel.legend(loc="center left", fontsize=8.5, frameon=False)
