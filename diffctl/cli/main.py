"""The entry point: parse, run one command, turn errors into a line and an exit code.

Exit codes: 0 done, 1 a check failed or the numbers did, 2 bad input, 130 interrupted.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from diffctl import host

if TYPE_CHECKING:
    from diffctl.cli.options import Common

# The module whose `run(command, terminal)` does the work, imported when it is chosen.
_RUNNERS = {
    "Demo": "demo",
    "Reconstruct": "reconstruct",
    "SelfCheck": "selfcheck",
    "TrainPrior": "train",
    "TrainClassifier": "train",
    "List": "listing",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `diffctl` and return its exit code.

    Args:
        arguments: without the name of the program; by default those of the process.
    """

    def parse() -> "Common":
        from diffctl.cli.options import parse

        return parse(None if arguments is None else list(arguments))

    return host.run("diffctl", parse, _run, for_good=arguments is None)


def _run(command: "Common") -> int:
    from diffctl.cli.compilation import keep_compiled_programs
    from diffctl.cli.devices import make_cores_devices
    from diffctl.cli.terminal import Terminal

    make_cores_devices()
    keep_compiled_programs()
    terminal = Terminal.create(command.json)
    module = import_module(f"diffctl.cli.{_RUNNERS[type(command).__name__]}")
    outcome = module.run(command, terminal)
    if command.json:
        terminal.document(outcome.result)
    return int(outcome.code)
