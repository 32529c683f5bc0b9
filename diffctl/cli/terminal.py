"""What goes to the user: results to standard output, everything else to the other."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
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
from rich.text import Text

from diffctl.host import if_interrupted, to_json


@dataclass(frozen=True)
class Outcome:
    """What a command ends with: a JSON document and the exit code."""

    result: dict[str, Any]
    code: int = 0


def console(**options: Any) -> Console:
    """Return a console that prints text as it is: a path may look like mark-up."""
    return Console(markup=False, emoji=False, **options)


@dataclass(frozen=True)
class Terminal:
    """Where a command writes.

    Attributes:
        json: print one JSON document at the end and no text.
        out: console of standard output; silent if `json`.
        err: console of standard error, for progress and errors.
    """

    json: bool = False
    out: Console = field(default_factory=console)
    err: Console = field(default_factory=lambda: console(stderr=True))

    @classmethod
    def create(cls, json: bool) -> "Terminal":
        """Return a terminal on the standard streams."""
        return cls(json=json, out=console(quiet=json))

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show a progress bar with the time that remains, on standard error."""
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.err,
            transient=True,
        )
        # The cursor, which a bar hides, comes back.
        with if_interrupted(progress.stop), progress:
            yield progress

    def wrote(self, path: Path, sentence: str = "Wrote ") -> None:
        """Say on standard output what was written, as a path to be copied."""
        self.out.print(Text.assemble(sentence, (str(path), "bold")), soft_wrap=True)

    def note(self, message: str) -> None:
        """Say something on standard error, as one line."""
        self.err.print(message, soft_wrap=True, highlight=False)

    def document(self, result: dict[str, Any]) -> None:
        """Print a result for machines."""
        sys.stdout.write(to_json(result))
        sys.stdout.flush()
