"""The entry point: parse, run one command, turn errors into a line and an exit code.

Exit codes: 0 done, 1 a check failed or the numbers did, 2 bad input, 130 interrupted.
"""

from collections.abc import Sequence
from importlib import import_module

from diffctl.cli import options
from diffctl.cli.terminal import Outcome, Terminal
from diffctl.cli.worker import leave

# The module whose `run(command, terminal)` does the work, imported when it is chosen.
_RUNNERS: dict[type, str] = {
    options.Demo: "demo",
    options.Reconstruct: "reconstruct",
    options.SelfCheck: "selfcheck",
    options.TrainPrior: "train",
    options.TrainClassifier: "train",
    options.List: "listing",
}
_EXTRA = {"matplotlib": "matplotlib", "PIL": "pillow"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `diffctl` and return its exit code.

    Args:
        arguments: without the name of the program; by default those of the process.
    """
    command = options.parse(None if arguments is None else list(arguments))
    terminal = Terminal.create(command.json)
    try:
        outcome = _run(command, terminal)
    except KeyboardInterrupt as stop:
        terminal.note(f"diffctl: interrupted. {stop}".rstrip())
        return leave(130)
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        if command.debug:
            raise
        terminal.error(_message(error))
        return 2
    except ArithmeticError as error:
        if command.debug:
            raise
        terminal.error(_message(error))
        return 1
    if command.json:
        terminal.document(outcome.result)
    return outcome.code


def _run(command: options.Common, terminal: Terminal) -> Outcome:
    from diffctl.cli.compilation import keep_compiled_programs
    from diffctl.cli.devices import make_cores_devices

    make_cores_devices()
    keep_compiled_programs()
    module = import_module(f"diffctl.cli.{_RUNNERS[type(command)]}")
    outcome: Outcome = module.run(command, terminal)
    return outcome


def _message(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRA:
        return (
            f"{_EXTRA[error.name]} is not installed, which pictures and reports need; "
            "install it by `pip install 'diffctl[report]'`."
        )
    return str(error) or type(error).__name__
