"""What goes to the user: results to standard output, everything else to the other."""

import json
import sys
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@dataclass(frozen=True)
class Outcome:
    """What a command ends with: a JSON document and the exit code."""

    result: dict[str, Any]
    code: int = 0


@dataclass(frozen=True)
class Terminal:
    """Where a command writes.

    Attributes:
        json: print one JSON document at the end and no text.
        out: console of standard output; silent if `json`.
        err: console of standard error, for progress and errors.
    """

    json: bool = False
    out: Console = field(default_factory=Console)
    err: Console = field(default_factory=lambda: Console(stderr=True))

    @classmethod
    def create(cls, json: bool) -> "Terminal":
        """Return a terminal on the standard streams."""
        return cls(json=json, out=Console(quiet=json))

    def progress(self) -> Progress:
        """Return a progress bar with the time that remains, on standard error."""
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.err,
            transient=True,
        )

    def note(self, message: str) -> None:
        """Say something on standard error, as one line."""
        self.err.print(message, soft_wrap=True, markup=False, highlight=False)

    def error(self, message: str) -> None:
        """Report why nothing was done, as one line."""
        self.note(f"diffctl: error: {' '.join(message.split())}")
        if self.json:
            self.document({"error": message})

    def document(self, result: dict[str, Any]) -> None:
        """Print a result for machines."""
        sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
        sys.stdout.flush()
