"""Comparing a converted folder with a reference, and keeping the result beside it."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from diffctl.host import check_settings, new_file, show, to_json
from diffctl.priors.preconditioning import from_json
from diffctl.priors.storage import correcting, read_description, read_net
from weights_convert.families import FAMILIES
from weights_convert.families.base import ConfigError
from weights_convert.output import sha256
from weights_convert.parity import (
    Arrays,
    NothingToCompareError,
    Row,
    Subject,
    compare,
    compare_probes,
    load_reference,
)

PARITY = "parity.json"


class _Source(TypedDict, total=False):
    family: str
    attention_order: Literal["legacy", "new"] | None


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
        report = _compared(subject, arrays, reference)
        path.write_text(to_json(_document(reference, report)))
    return report


def _compared(subject: Subject, arrays: Arrays, reference: Path) -> Report:
    try:
        rows = compare(subject, arrays)
        failed = not all(row.passed for row in rows)
        return Report(rows, compare_probes(subject, arrays) if failed else [])
    except NothingToCompareError as error:
        raise NothingToCompareError(f"{reference}: {error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(
            f"{reference}: the arrays do not fit the network, or one another; expected "
            "images (N, C, H, W) of its size and channels, and every output with the "
            f"shape of its cotangent. They are {show(shapes)}. Record them again."
        ) from error


def read_converted(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the description of a model, and of the checkpoint that it was made of.

    The latter is empty if there was none that this converter read.

    Raises:
        FileNotFoundError, ValueError: as `read_description`.
    """
    description = read_description(folder)
    source = description.get("source")
    if not isinstance(source, dict):
        return description, {}
    with correcting(folder):
        check_settings(_Source, source, "the source", others=True)
    return description, source


def load_subject(folder: Path) -> Subject:
    """Load a converted network.

    Raises:
        ConfigError: the folder does not say what it was converted from.
    """
    description, source = read_converted(folder)
    if source.get("family") not in FAMILIES:
        raise ConfigError(
            f"{folder} was not written by this converter: its model.json names no "
            f"family that it knows ({', '.join(FAMILIES)}). Convert the checkpoint "
            "again."
        )
    described = description.get("preconditioning")
    with correcting(folder):
        rule = None if described is None else from_json(described)
    return Subject(
        net=read_net(folder, description),
        family=source["family"],
        preconditioning=rule,
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
