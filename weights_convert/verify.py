"""Comparing a converted folder with a reference, and keeping the result beside it."""

from pathlib import Path
from typing import Any, NamedTuple

from diffctl.host import new_file, to_json
from diffctl.priors.preconditioning import from_json
from diffctl.priors.storage import read_description, read_model
from weights_convert.families import FAMILIES
from weights_convert.families.base import ConfigError
from weights_convert.output import sha256
from weights_convert.parity import (
    Row,
    Subject,
    compare,
    compare_probes,
    load_reference,
)

PARITY = "parity.json"


class Report(NamedTuple):
    """The comparisons, and intermediate values if some of them failed."""

    rows: list[Row]
    probes: list[Row]

    @property
    def passed(self) -> bool:
        """Return whether every comparison is within its limit."""
        return all(row.passed for row in self.rows)


def verify(folder: Path, reference: Path) -> Report:
    """Compare a converted network with recorded arrays and write `parity.json`.

    Raises:
        ConfigError: the folder does not say what it was converted from.
        ValueError: the folder or the reference cannot be read, or do not fit together.
    """
    subject, arrays = load_subject(folder), load_reference(reference)
    with new_file(folder / PARITY) as path:  # the place is known before the work
        rows = compare(subject, arrays)
        failed = not all(row.passed for row in rows)
        report = Report(rows, compare_probes(subject, arrays) if failed else [])
        path.write_text(to_json(_document(reference, report)))
    return report


def load_subject(folder: Path) -> Subject:
    """Load a converted network.

    Raises:
        ConfigError: the folder does not say what it was converted from.
    """
    description = read_description(folder)
    source = description.get("source")
    if not isinstance(source, dict) or source.get("family") not in FAMILIES:
        raise ConfigError(
            f"{folder} was not written by this converter: its model.json names no "
            f"family that it knows ({', '.join(FAMILIES)}). Convert the checkpoint "
            "again."
        )
    net, _ = read_model(folder, kind=description["kind"])
    rule = description.get("preconditioning")
    return Subject(
        net=net,
        family=source["family"],
        preconditioning=from_json(rule) if rule else None,
        order=source.get("attention_order"),
    )


def _document(reference: Path, report: Report) -> dict[str, Any]:
    return {
        "reference": reference.name,
        "reference_sha256": sha256(reference),
        "passed": report.passed,
        "comparisons": [_entry(row) for row in report.rows],
        "intermediate": [_entry(row) for row in report.probes],
    }


def _entry(row: Row) -> dict[str, Any]:
    return row._asdict() | {"passed": row.passed}
