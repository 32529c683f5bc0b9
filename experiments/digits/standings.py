"""Who is ahead: solvers of one budget in the order of their PSNR."""

from collections.abc import Sequence
from statistics import fmean

from experiments.common import Measure, cell
from experiments.common.restoration import RESTORATIONS
from experiments.common.table import Summary, grid

PSNR = Measure("psnr", "PSNR (dB)", 2)


def standings(summaries: Sequence[Summary]) -> str:
    """Return a table for each budget, a row for each solver, tasks side by side."""
    budgets = {summary.labels["budget"] for summary in summaries}
    tables = [
        f"PSNR (dB), budget {budget}:\n\n{_table(_of(summaries, budget))}"
        for budget in sorted(budgets, key=_size)
    ]
    return "\n".join(tables)


def _of(summaries: Sequence[Summary], budget: str) -> dict[str, dict[str, Summary]]:
    """Return the summaries of one budget by solver and task."""
    found: dict[str, dict[str, Summary]] = {}
    for summary in summaries:
        if summary.labels["budget"] == budget:
            by_task = found.setdefault(summary.labels["solver"], {})
            by_task[summary.labels["task"]] = summary
    return found


def _table(found: dict[str, dict[str, Summary]]) -> str:
    behind = _behind(found)
    most = max(s.images for by_task in found.values() for s in by_task.values())
    rows = [
        [
            name,
            *(_text(found[name].get(task), most) for task in RESTORATIONS),
            "" if behind[name] is None else f"{behind[name]:.2f}",
        ]
        for name in sorted(found, key=lambda name: _last_if_none(behind[name]))
    ]
    titles = [task.replace("_", " ") for task in RESTORATIONS]
    return grid(["solver", *titles, "behind the best"], rows)


def _behind(found: dict[str, dict[str, Summary]]) -> dict[str, float | None]:
    """Return how far each solver is behind the best, mean over the tasks it can do.

    Two solvers are compared on the images that both have.
    """
    gaps = {
        name: [
            _gap(summary, [other[task] for other in found.values() if task in other])
            for task, summary in by_task.items()
            if summary.values[PSNR.name]
        ]
        for name, by_task in found.items()
    }
    return {name: fmean(gap) if gap else None for name, gap in gaps.items()}


def _gap(summary: Summary, all_of_task: list[Summary]) -> float:
    own = summary.values[PSNR.name]
    others = [other.values[PSNR.name] for other in all_of_task]
    return max(
        fmean(other[i] - own[i] for i in own.keys() & other.keys())
        for other in others
        if own.keys() & other.keys()
    )


def _text(summary: Summary | None, most: int) -> str:
    """Return mean and standard error, and the number of images where it is smaller."""
    if summary is None:
        return ""
    text = cell(summary.statistics[PSNR.name], PSNR)
    return text if summary.images == most else f"{text} ({summary.images})"


def _last_if_none(behind: float | None) -> float:
    return float("inf") if behind is None else behind


def _size(budget: str) -> int:
    """Return what budgets are sorted by: `own`, which is not a number, comes first."""
    return int(budget) if budget.isdecimal() else 0
