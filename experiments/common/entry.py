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
from diffctl.host import held, if_interrupted, run, to_json
from experiments.common.store import Results

_GOES_ON = "Finished chunks are kept; the same command goes on."


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

    def parse() -> Any:
        return tyro.cli(parser, prog=prog, args=rest)

    def work(chosen: Any) -> int:
        terminal = Terminal()
        if not only_table:
            with held(chosen.out, terminal.note), if_interrupted(lambda: _GOES_ON):
                _compute(compute, chosen, terminal)
        terminal.out.file.write(render(Results(chosen.out)))
        return 0

    return run(f"experiments.{name}", parse, work, for_good=arguments is None)


def _compute(
    compute: Callable[[Any, Terminal], None], chosen: Any, terminal: Terminal
) -> None:
    make_cores_devices()
    keep_compiled_programs()
    try:
        compute(chosen, terminal)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_GOES_ON) from None


def measured(name: str, options: type, measure: Callable[[Any], Any]) -> int:
    """Run a benchmark: parse, measure, print one JSON document.

    Args:
        name: of the benchmark.
        options: a dataclass.
        measure: `measure(options)` returns the document.
    """

    def work(chosen: Any) -> int:
        sys.stdout.write(to_json(measure(chosen)))
        return 0

    prog = f"experiments.{name}"
    return run(prog, lambda: tyro.cli(options, prog=prog), work, for_good=True)
