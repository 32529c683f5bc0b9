"""Results of many problems, put together by sampler and cell."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.gmm_benchmark.runner import Cell
from experiments.gmm_benchmark.samplers import SAMPLERS


@dataclass(frozen=True)
class Summary:
    """The results of a sampler on a cell.

    Attributes:
        sampler: its name.
        cell: (d, d_y).
        values: measure -> numbers of all problems, None where not finite.
        seconds: of all problems.
    """

    sampler: str
    cell: Cell
    values: dict[str, list[float | None]]
    seconds: list[float]

    def mean(self, measure: str) -> tuple[float, float]:
        """Return mean and 1.96 standard errors, NaN where they are unknown."""
        found = self._finite(measure)
        mean = statistics.fmean(found) if found else math.nan
        if len(found) < 2:
            return mean, math.nan
        return mean, 1.96 * statistics.stdev(found) / math.sqrt(len(found))

    def median(self, measure: str) -> float:
        """Return the median, NaN if there is none."""
        found = self._finite(measure)
        return statistics.median(found) if found else math.nan

    def to_json(self) -> dict[str, Any]:
        """Return it as one object."""
        numbers = {}
        for measure in self.values:
            mean, half = self.mean(measure)
            middle = self.median(measure)
            found = {"mean": mean, "half_width": half, "median": middle}
            # No more digits than mean anything: the file is kept with the source.
            numbers[measure] = {name: float(f"{x:.6g}") for name, x in found.items()}
        return {
            "sampler": self.sampler,
            "d": self.cell[0],
            "d_y": self.cell[1],
            "problems": len(self.seconds),
            "seconds": statistics.fmean(self.seconds),
            **numbers,
        }

    def _finite(self, measure: str) -> list[float]:
        return [value for value in self.values[measure] if value is not None]


def summarise(records: Sequence[dict[str, Any]]) -> list[Summary]:
    """Return a summary of each sampler on each cell, samplers in their usual order."""
    groups: dict[tuple[str, Cell], list[dict[str, Any]]] = {}
    for record in records:
        labels = record["labels"]
        cell = labels["d"], labels["d_y"]
        groups.setdefault((labels["sampler"], cell), []).append(record)
    found = [
        Summary(
            sampler=name,
            cell=cell,
            values={
                measure: [value for one in group for value in one["images"][measure]]
                for measure in group[0]["images"]
            },
            seconds=[one["seconds"] for one in group],
        )
        for (name, cell), group in groups.items()
    ]
    order = list(SAMPLERS)
    return sorted(
        found, key=lambda summary: (order.index(summary.sampler), summary.cell)
    )
