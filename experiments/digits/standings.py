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
    rows = [
        [
            name,
            *(_text(found[name].get(task)) for task in RESTORATIONS),
            "" if behind[name] is None else f"{behind[name]:.2f}",
        ]
        for name in sorted(found, key=lambda name: _last_if_none(behind[name]))
    ]
    titles = [task.replace("_", " ") for task in RESTORATIONS]
    return grid(["solver", *titles, "behind the best"], rows)


def _behind(found: dict[str, dict[str, Summary]]) -> dict[str, float | None]:
    """Return how far each solver is behind the best, mean over the tasks it can do."""
    best: dict[str, float] = {}
    for by_task in found.values():
        for task, mean in _means(by_task).items():
            best[task] = max(best.get(task, mean), mean)
    gaps = {
        name: [best[task] - mean for task, mean in _means(by_task).items()]
        for name, by_task in found.items()
    }
    return {name: fmean(gap) if gap else None for name, gap in gaps.items()}


def _means(by_task: dict[str, Summary]) -> dict[str, float]:
    """Return the mean PSNR by task, without the tasks at which every image failed."""
    means = {task: s.statistics[PSNR.name]["mean"] for task, s in by_task.items()}
    return {task: mean for task, mean in means.items() if mean is not None}


def _text(summary: Summary | None) -> str:
    return "" if summary is None else cell(summary.statistics[PSNR.name], PSNR)


def _last_if_none(behind: float | None) -> float:
    return float("inf") if behind is None else behind


def _size(budget: str) -> int:
    """Return what budgets are sorted by: `own`, which is not a number, comes first."""
    return int(budget) if budget.isdecimal() else 0
