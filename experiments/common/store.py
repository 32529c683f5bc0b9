"""Results as JSON files, one per chunk of images, each written in one step.

`OUT/results/LABELS/FIRST-LAST.json`; an interrupted run leaves whole files only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from diffctl.host import Natural, check_settings, new_file, read_json, to_json
from diffctl.host.documents import plain

Labels = Mapping[str, Any]


class _Named(TypedDict):
    """Which result a file holds."""

    ids: list[Natural]
    settings: Mapping[str, Any]


class _Found(TypedDict):
    """What a table needs of it."""

    labels: Mapping[str, Any]
    ids: list[Natural]
    images: Mapping[str, Any]
    seconds: float | None


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
            record = _read(path, _Named)
            _check_same(path, record["settings"], plain(settings))
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
        return [_read(path, _Found) for path in paths]

    def _folder(self, labels: Labels) -> Path:
        return self.out / "results" / ".".join(str(value) for value in labels.values())


def write_text(path: Path, text: str) -> None:
    """Write a file in one step."""
    with new_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write a document in one step; numbers that are not finite become null."""
    write_text(path, to_json(document))


def _read(path: Path, fields: type) -> dict[str, Any]:
    try:
        record: dict[str, Any] = read_json(path)
        check_settings(fields, record, str(path), others=True)
    except ValueError as error:
        raise ValueError(f"{error} It is not a result; delete it.") from error
    return record


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differing:
        raise ValueError(
            f"{path} was made with other settings ({', '.join(differing)}); delete its "
            "folder to compute it anew, or choose another --out."
        )
