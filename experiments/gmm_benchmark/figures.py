"""The figures: distances by sampler and cell, and samples of one problem as points."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffctl.report.figure import INK, RULE, SOFT, blank_figure, save
from experiments.gmm_benchmark.problems import cluster_means
from experiments.gmm_benchmark.summary import Summary

_ACCENT, _WARM = "#0b6e63", "#c2502e"
_LINES = {"exact": ("noise floor", _ACCENT), "prior": ("prior", SOFT)}
# Times the larger line: what is farther diverged, and is a triangle at the edge.
_FARTHEST = 10
_COLUMNS = 4


def write_figures(
    out: Path, records: Sequence[dict[str, Any]], found: Sequence[Summary]
) -> list[str]:
    """Write the figures as PNG files, and return their names. Needs matplotlib."""
    names = list(dict.fromkeys(summary.sampler for summary in found))
    figures = {
        "distances.png": _distances(found),
        "samples.png": _samples(names, records),
    }
    for name, figure in figures.items():
        if figure is not None:
            save(figure, out / name)
    return [name for name, figure in figures.items() if figure is not None]


def _distances(found: Sequence[Summary]) -> Any:
    """Return a panel for each cell, with a mark for each sampler and the two lines."""
    cells = sorted({summary.cell for summary in found})
    sizes = sorted({size for size, _ in cells})
    counts = sorted({count for _, count in cells})
    names = [s.sampler for s in found if s.sampler not in _LINES]
    names = list(dict.fromkeys(names))[::-1]
    height = 0.22 * max(len(names), 3) + 0.55
    figure = blank_figure(
        2.0 + 2.6 * len(counts), 0.75 + height * len(sizes), layout="constrained"
    )
    axes = figure.subplots(
        len(sizes), len(counts), sharex=True, sharey=True, squeeze=False
    )
    for (size, count), panel in zip(
        [(size, count) for size in sizes for count in counts], axes.flat, strict=True
    ):
        own = {s.sampler: s for s in found if s.cell == (size, count)}
        panel.set_title(f"d = {size}, $d_y$ = {count}", fontsize=9, color=INK)
        _draw_distances(panel, names, own)
    handles, texts = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, texts, loc="outside upper left", ncols=3, fontsize=8, frameon=False
    )
    for panel in axes[-1]:
        panel.set_xlabel("sliced $W_1$", fontsize=8, color=SOFT)
    return figure


def _draw_distances(panel: Any, names: Sequence[str], own: dict[str, Summary]) -> None:
    panel.set(xscale="log", ylim=(-0.7, len(names) - 0.3))
    panel.set_yticks(range(len(names)), names)
    panel.grid(axis="both", color=RULE, linewidth=0.6)
    for name, (label, colour) in _LINES.items():
        if name in own:
            mean, half = own[name].mean("sliced_w1")
            panel.axvline(mean, color=colour, linewidth=1.4, label=label, zorder=1)
            if half < mean:
                panel.axvspan(mean - half, mean + half, color=colour, alpha=0.12, lw=0)
    limit = _FARTHEST * max(
        (s.mean("sliced_w1")[0] for s in _known(own)), default=np.inf
    )
    for row, name in enumerate(names):
        if name not in own:
            continue
        mean, half = own[name].mean("sliced_w1")
        if mean > limit:
            panel.plot(limit, row, ">", color=_WARM, markersize=6)
            continue
        # Bars that reach 0 would have no end on this axis.
        below = min(half, 0.9 * mean)
        bars = [[below], [half]] if half == half else None
        legend = "mean ± 1.96 standard errors" if row == 0 else None
        panel.errorbar(
            [mean],
            [row],
            xerr=bars,
            fmt="o",
            color=_WARM,
            markersize=4.5,
            linewidth=1.2,
            label=legend,
        )
    _finish(panel)


def _known(own: dict[str, Summary]) -> list[Summary]:
    """Return the summaries of the two lines, as far as there are any."""
    return [own[name] for name in _LINES if name in own]


def _samples(names: Sequence[str], records: Sequence[dict[str, Any]]) -> Any:
    """Return a panel for each sampler on one problem, exact samples beneath."""
    shown = [record for record in records if "scatter" in record]
    if not shown:
        return None
    cell = min((r["labels"]["d"], r["labels"]["d_y"]) for r in shown)
    points = {
        r["labels"]["sampler"]: (np.asarray(r["scatter"]), r["images"]["sliced_w1"][0])
        for r in shown
        if (r["labels"]["d"], r["labels"]["d_y"]) == cell
    }
    exact, _ = points.pop("exact", (np.empty((0, 2)), None))
    ordered = {name: points[name] for name in names if name in points}
    return _draw_samples(ordered, exact, cell) if ordered else None


def _draw_samples(
    points: dict[str, tuple[np.ndarray, float]], exact: np.ndarray, cell: Any
) -> Any:
    rows = -(-len(points) // _COLUMNS)
    columns = min(len(points), _COLUMNS)
    figure = blank_figure(0.4 + 1.9 * columns, 0.6 + 2.1 * rows, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    centres, limit = cluster_means(2), 22
    for panel, (name, (drawn, distance)) in zip(
        axes.flat, points.items(), strict=False
    ):
        panel.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit))
        panel.set_xticks((-16, 0, 16))
        panel.set_yticks((-16, 0, 16))
        panel.plot(*centres.T, "+", color=RULE, markersize=5, zorder=0)
        panel.plot(*exact.T, ".", color=_ACCENT, markersize=9, alpha=0.1, mew=0)
        panel.plot(*drawn.T, ".", color=_WARM, markersize=3, alpha=0.6, mew=0)
        text = f"{name}  {distance:.2f}"
        panel.set_title(text, fontsize=8.5, color=INK, loc="left")
        _finish(panel)
    for empty in range(len(points), axes.size):
        axes.flat[empty].set_axis_off()
        axes.flat[empty - columns].tick_params(labelbottom=True)
    figure.suptitle(
        f"Samples and their sliced $W_1$; green: exact samples; first two coordinates, "
        f"d = {cell[0]}, $d_y$ = {cell[1]}, problem 0",
        fontsize=9.5,
        color=INK,
    )
    return figure


def _finish(panel: Any) -> None:
    panel.tick_params(labelsize=7.5, colors=SOFT, length=2)
    panel.set_axisbelow(True)
    for spine in panel.spines.values():
        spine.set(color=RULE)
