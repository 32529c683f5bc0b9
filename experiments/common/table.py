"""Tables made from result files and from nothing else: mean ± standard error."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from experiments.common.store import write_json, write_text

_LARGE = 1e5


@dataclass(frozen=True)
class Measure:
    """A column of numbers.

    Attributes:
        name: in the files.
        heading: in the table.
        digits: after the point.
        factor: of the unit, e.g. 100 for per cent.
    """

    name: str
    heading: str
    digits: int
    factor: float = 1.0


@dataclass(frozen=True)
class Summary:
    """A row: its labels, number of images, failures, seconds and statistics.

    `values` are the numbers of the images by measure and id, without what failed.
    """

    labels: dict[str, Any]
    images: int
    failed: int
    seconds_per_image: float
    statistics: dict[str, dict[str, float | None]]
    values: dict[str, dict[int, float]]

    def to_json(self) -> dict[str, Any]:
        """Return it as one object."""
        return {
            **self.labels,
            "images": self.images,
            "failed": self.failed,
            "seconds_per_image": self.seconds_per_image,
            **self.statistics,
        }


def summarise(
    records: Sequence[dict[str, Any]], measures: Sequence[Measure]
) -> list[Summary]:
    """Return a summary of each row, in the order in which rows first appear.

    Raises:
        ValueError: an image has two results for a row.
    """
    order: dict[str, int] = {}
    for record in records:
        order.setdefault(_name(record), len(order))
    ordered = sorted(records, key=lambda record: order[_name(record)])
    return [_summary(list(group), measures) for _, group in groupby(ordered, key=_name)]


def to_markdown(summaries: Sequence[Summary], measures: Sequence[Measure]) -> str:
    """Return one row per summary with all measures."""
    labels = list(summaries[0].labels)
    headings = [m.heading for m in measures]
    rows = [
        [
            *(str(value) for value in summary.labels.values()),
            *(cell(summary.statistics[m.name], m) for m in measures),
            f"{summary.seconds_per_image:.3g}",
            str(summary.failed),
            str(summary.images),
        ]
        for summary in summaries
    ]
    return grid([*labels, *headings, "s / image", "failed", "images"], rows)


def pivot(summaries: Sequence[Summary], measure: Measure, across: str) -> str:
    """Return a table of one measure whose columns are the values of a label."""
    columns = sorted({summary.labels[across] for summary in summaries})
    cells: dict[tuple[str, ...], dict[Any, str]] = {}
    for summary in summaries:
        rest = tuple(str(v) for name, v in summary.labels.items() if name != across)
        value = cell(summary.statistics[measure.name], measure)
        cells.setdefault(rest, {})[summary.labels[across]] = value
    labels = [name for name in summaries[0].labels if name != across]
    rows = [[*rest, *(row.get(c, "") for c in columns)] for rest, row in cells.items()]
    return grid([*labels, *(f"{across} {column}" for column in columns)], rows)


def cell(numbers: dict[str, float | None], measure: Measure) -> str:
    """Return mean ± standard error; without the latter where it is 0 or unknown."""
    mean, spread = numbers["mean"], numbers["standard_error"]
    if mean is None:
        return ""
    # What has exploded needs no digits after the point.
    fixed = f".{measure.digits}f"
    how = fixed if abs(measure.factor * mean) < _LARGE else ".0e"
    text = f"{measure.factor * mean:{how}}"
    return f"{text} ± {measure.factor * spread:{how}}" if spread else text


def origin(records: Sequence[dict[str, Any]]) -> str:
    """Return a sentence on what the numbers are and how they were computed."""
    return f"Mean ± standard error over images; {provenance(records)}."


def provenance(records: Sequence[dict[str, Any]]) -> str:
    """Return what the results were computed with and on, as a part of a sentence."""
    found = [record["environment"] for record in records]
    devices = {", ".join(e["machine"]["devices"]) for e in found}
    versions = {
        f"diffctl {e['versions']['diffctl']}, jax {e['versions']['jax']}" for e in found
    }
    revisions = {str(e["revision"]) for e in found}
    parts = (sorted(part) for part in (versions, devices, revisions))
    names = ("", "on ", "revision ")
    described = [
        prefix + " and ".join(part) for prefix, part in zip(names, parts, strict=True)
    ]
    return f"from {len(records)} files, {'; '.join(described)}"


def with_figures(text: str, write: Callable[[], list[str]]) -> str:
    """Return the text with a line on its figures, which `write` writes and names."""
    if find_spec("matplotlib"):
        return f"{text}\nFigures: {', '.join(write())}.\n"
    return f"{text}\nNo figures: they need matplotlib, from the extra `report`.\n"


def write_tables(out: Path, markdown: str, summaries: Sequence[Summary]) -> None:
    """Write `table.md` and `table.json`."""
    write_text(out / "table.md", markdown)
    write_json(out / "table.json", [summary.to_json() for summary in summaries])


def _summary(records: list[dict[str, Any]], measures: Sequence[Measure]) -> Summary:
    ids = [i for record in records for i in record["ids"]]
    if len(set(ids)) != len(ids):
        raise ValueError(
            f"Some images have two results for {_name(records[0])}; delete one of the "
            "files."
        )
    values = {m.name: _finite(ids, _gather(records, m.name)) for m in measures}
    return Summary(
        labels=records[0]["labels"],
        images=len(ids),
        failed=sum(status != 0 for status in _gather(records, "status")),
        seconds_per_image=sum(record["seconds"] for record in records) / len(ids),
        statistics={name: _statistics(found) for name, found in values.items()},
        values=values,
    )


def _gather(records: list[dict[str, Any]], name: str) -> list[Any]:
    return [
        value
        for record in records
        for value in record["images"].get(name, [None] * len(record["ids"]))
    ]


def _finite(ids: list[int], values: list[Any]) -> dict[int, float]:
    pairs = zip(ids, values, strict=True)
    return {i: float(value) for i, value in pairs if value is not None}


def _statistics(values: dict[int, float]) -> dict[str, float | None]:
    """Return mean and standard error, None where undefined."""
    finite = list(values.values())
    mean = statistics.fmean(finite) if finite else None
    spread = None
    if len(finite) > 1:
        spread = statistics.stdev(finite) / math.sqrt(len(finite))
    return {"mean": mean, "standard_error": spread}


def grid(headings: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _name(record: dict[str, Any]) -> str:
    return " ".join(str(value) for value in record["labels"].values())
