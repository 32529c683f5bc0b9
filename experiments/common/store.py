"""Results as JSON files, one per chunk of images, each written in one step.

`OUT/results/LABELS/FIRST-LAST.json`; an interrupted run leaves whole files only.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Labels = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """The files of one experiment under the folder `out`."""

    out: Path

    def done(self, labels: Labels, settings: Mapping[str, Any]) -> set[int]:
        """Return the ids of the images that a row has results for.

        Raises:
            ValueError: a file was made with other settings, or is not readable.
        """
        found: set[int] = set()
        for path in sorted(self._folder(labels).glob("*.json")):
            record = _read(path)
            _check_same(path, record["settings"], _plain(settings))
            found.update(record["ids"])
        return found

    def write(self, record: Mapping[str, Any]) -> Path:
        """Write a record with `labels` and `ids`; numbers that are not finite: null."""
        ids = record["ids"]
        name = f"{min(ids):05d}-{max(ids):05d}.json"
        path = self._folder(record["labels"]) / name
        write_json(path, record)
        return path

    def records(self) -> list[dict[str, Any]]:
        """Return what all files hold, in the order of their names.

        Raises:
            FileNotFoundError: there are none.
            ValueError: a file is not readable.
        """
        paths = sorted((self.out / "results").glob("*/*.json"))
        if not paths:
            raise FileNotFoundError(f"There are no results in {self.out}.")
        return [_read(path) for path in paths]

    def _folder(self, labels: Labels) -> Path:
        return self.out / "results" / ".".join(str(value) for value in labels.values())


def write_json(path: Path, document: Any) -> None:
    """Write a document beside its place, then move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(_plain(document), indent=2, allow_nan=False) + "\n")
    os.replace(scratch, path)


def _plain(value: Any) -> Any:
    """Return what JSON makes of a value, null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a result; delete it: {error}.") from error


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differing:
        raise ValueError(
            f"{path} was made with other settings ({', '.join(differing)}); delete its "
            "folder to compute it anew, or choose another --out."
        )
