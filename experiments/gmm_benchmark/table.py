"""The tables of the benchmark, from its files."""

import math
from collections.abc import Callable, Sequence
from functools import partial

from experiments.common import Results, provenance, with_figures
from experiments.common.store import write_json, write_text
from experiments.common.table import grid
from experiments.gmm_benchmark.figures import write_figures
from experiments.gmm_benchmark.samplers import SAMPLERS
from experiments.gmm_benchmark.summary import Summary, summarise

_LEGEND = """\
Sliced W1: distance to as many exact samples along random directions; the row `exact`
is its floor, `prior` what it costs to ignore the measurement. Largest W2: the largest
over 100 directions, not their mean. Mode weights: half the
sum of their errors, 0 to 1. All are means ± 1.96 standard errors over problems. Within
modes: error of the second moments of whitened samples about their mode, 0 if exact, 1
for a mode without width; median over problems, in the d_y measured and the d - d_y free
directions; the row `exact` shows what the estimate resolves. Calls are those of the
network for each sample, seconds those of all samples of a problem without compilation.
Samples of particle solvers come from whole ensembles: they cost no more calls than
others but depend on each other. `doc` is a point estimate, repeated."""


def render(results: Results) -> str:
    """Write `table.md`, `table.json` and the figures, and return the first of them."""
    records = results.records()
    found = summarise(records)
    parts = [
        f"Sliced W1, by (d, d_y)\n\n{_pivot(found, _mean('sliced_w1', 2))}",
        f"Largest W2, by (d, d_y)\n\n{_pivot(found, _mean('largest_w2', 2))}",
        f"Error of the mode weights\n\n{_pivot(found, _mean('weight_error', 3))}",
        "Error within modes, measured / free directions\n\n"
        f"{_pivot(found, _within_modes)}",
        f"Samplers\n\n{_costs(found)}",
        f"{_LEGEND} {_sizes(found)}\n\nComputed {provenance(records)}.\n",
    ]
    write = partial(write_figures, results.out, records, found)
    text = with_figures("\n".join(parts), write)
    write_text(results.out / "table.md", text)
    write_json(results.out / "table.json", [summary.to_json() for summary in found])
    return text


def _pivot(found: Sequence[Summary], text: Callable[[Summary], str]) -> str:
    """Return a table with a row for each sampler and a column for each cell."""
    cells = sorted({summary.cell for summary in found})
    entries = {(s.sampler, s.cell): text(s) for s in found}
    rows = [
        [name, *(entries.get((name, cell), "") for cell in cells)]
        for name in _names(found)
    ]
    return grid(["sampler", *(f"({d}, {d_y})" for d, d_y in cells)], rows)


def _mean(measure: str, digits: int) -> Callable[[Summary], str]:
    def text(summary: Summary) -> str:
        mean, half = summary.mean(measure)
        if math.isnan(mean):
            return ""
        style = f".{digits}f" if mean < 1000 else ".1e"
        return f"{mean:{style}}" + ("" if math.isnan(half) else f" ± {half:{style}}")

    return text


def _within_modes(summary: Summary) -> str:
    values = [summary.median(f"{where}_error") for where in ("measured", "free")]
    return " / ".join("" if math.isnan(value) else f"{value:.2g}" for value in values)


def _costs(found: Sequence[Summary]) -> str:
    """Return what the samplers are and cost, with seconds for each d."""
    sizes = sorted({summary.cell[0] for summary in found})
    rows = []
    for name in _names(found):
        own = [summary for summary in found if summary.sampler == name]
        calls = [f"{own[0].mean(kind)[0]:.4g}" for kind in ("forwards", "vjps")]
        failed = sum(summary.mean("status")[0] > 0 for summary in own)
        times = [
            [t for s in own if s.cell[0] == size for t in s.seconds] for size in sizes
        ]
        means = [f"{sum(t) / len(t):.2g}" if t else "" for t in times]
        rows.append([name, SAMPLERS[name].summary, *calls, *means, str(failed)])
    seconds = [f"s, d = {size}" for size in sizes]
    headings = ["sampler", "settings", "forwards", "VJPs", *seconds, "cells with NaNs"]
    return grid(headings, rows)


def _sizes(found: Sequence[Summary]) -> str:
    """Return a sentence on the problems."""
    counts = sorted({len(summary.seconds) for summary in found})
    modes = [
        s.median("effective_modes") for s in found if s.sampler == found[0].sampler
    ]
    spread = f"{min(modes):.2g} to {max(modes):.2g}"
    return (
        f"Problems of a cell: {' or '.join(map(str, counts))}. Effective number of "
        f"modes (exponential of their weights' entropy), median of a cell: {spread}."
    )


def _names(found: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(summary.sampler for summary in found))
