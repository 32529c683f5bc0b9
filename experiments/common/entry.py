"""The frame of every experiment: `python -m experiments.NAME [table] OPTIONS`.

Errors become a line and an exit code, and Ctrl-C keeps what is done.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from diffctl.cli.compilation import keep_compiled_programs
from diffctl.cli.devices import make_cores_devices
from diffctl.cli.terminal import Terminal
from diffctl.cli.worker import leave
from experiments.common.store import Results


@dataclass(frozen=True)
class Table:
    """Render the tables from the results, without computing anything.

    Attributes:
        out: Folder of the results.
    """

    out: Path


def command(
    name: str,
    options: type,
    compute: Callable[[Any, Terminal], None],
    render: Callable[[Results], str],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse, compute what is missing, print the table and return the exit code.

    Args:
        name: of the experiment.
        options: a dataclass with the field `out`.
        compute: `compute(options, terminal)`; left out by the word `table`.
        render: writes the tables and returns them as text.
        arguments: of the command line; by default those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    only_table = given[:1] == ["table"]
    prog = f"experiments.{name} table" if only_table else f"experiments.{name}"
    parser, rest = (Table, given[1:]) if only_table else (options, given)
    chosen: Any = tyro.cli(parser, prog=prog, args=rest)

    def work(terminal: Terminal) -> None:
        if not only_table:
            compute(chosen, terminal)
        terminal.out.file.write(render(Results(chosen.out)))

    return guarded(work)


def guarded(work: Callable[[Terminal], None]) -> int:
    """Run an experiment and return its exit code: 0, 2 for bad input, 130."""
    terminal = Terminal()
    make_cores_devices()
    keep_compiled_programs()
    try:
        work(terminal)
    except KeyboardInterrupt:
        terminal.note(
            "Interrupted. Finished chunks are kept; the same command goes on."
        )
        return leave(130)
    except (ValueError, TypeError, OSError) as error:
        terminal.error(str(error))
        return 2
    return 0
