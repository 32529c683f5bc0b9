"""The door of every program: options in, an exit code out, errors as one line.

Exit codes: 0 done, 1 a check failed or the numbers did, 2 bad input, 130 interrupted.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from diffctl.host.documents import to_json
from diffctl.host.interruption import INTERRUPTED, answered, whole
from diffctl.host.settings import check_options

Options = TypeVar("Options")

FAILED, BAD_INPUT = 1, 2

_EXTRA = {"matplotlib": "matplotlib", "PIL": "pillow"}
_CURES = {
    errno.ENOSPC: "Free some space, or write to another disk.",
    errno.EDQUOT: "Free some space, or write to another disk.",
    errno.EFBIG: "Raise the limit on the size of files, or write to another disk.",
    errno.EACCES: "Choose a place that you may read and write.",
    errno.EPERM: "Choose a place that you may read and write.",
    errno.EROFS: "Choose a place that can be written.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "A folder was expected; check the path.",
    errno.EISDIR: "A file was expected, not a folder; check the path.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


def run(
    name: str,
    parse: Callable[[], Options],
    work: Callable[[Options], int],
    *,
    for_good: bool = False,
) -> int:
    """Run a program and return its exit code.

    Args:
        name: of the program, for its messages.
        parse: returns the options, a dataclass, or raises `SystemExit` on a usage
            error. The numbers are compared with their annotations. Those with `debug`
            set get the traceback of an error, those with `json` a document.
        work: does it and returns the exit code.
        for_good: the process does nothing else afterwards.
    """

    def body() -> int:
        options = parse()
        try:
            check_options(options)
            code = work(options)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # Nobody reads on, as after `| head`; nor is the rest to be tried at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        except Exception as error:
            if getattr(options, "debug", False):
                raise
            with whole():
                _report(name, explain(error), json=getattr(options, "json", False))
            return _code_of(error)

    _open_closed_streams()
    # A path that cannot be encoded is printed all the same.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return answered(name, body, for_good=for_good)
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"{name}: interrupted. {stop}".rstrip() + "\n")
        return INTERRUPTED


def _open_closed_streams() -> None:
    """Let what is written to a stream that the caller closed go nowhere.

    A file that is opened gets the lowest free descriptor, here that of the stream, so
    that no later one does.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))


def explain(error: BaseException) -> str:
    """Return what went wrong, and what to do about it where that is known."""
    notes = getattr(error, "__notes__", ())
    return " ".join([_sentence(error), *notes])


def _sentence(error: BaseException) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRA:
        return (
            f"{_EXTRA[error.name]} is not installed, which pictures and reports need; "
            "install it by `pip install 'diffctl[report]'`."
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. {_CURES.get(error.errno, '')}".rstrip()
    if isinstance(error, (*_INPUT, ArithmeticError)):  # a full disk is one, too
        return text
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"Out of memory: {text}. Use fewer or smaller images at a time."
    return (
        f"{type(error).__name__}: {text}. This was not foreseen; please report it with "
        "the command."
    )


_INPUT = (ValueError, TypeError, OSError, ModuleNotFoundError)


def _code_of(error: Exception) -> int:
    return BAD_INPUT if isinstance(error, _INPUT) else FAILED


def _report(name: str, message: str, *, json: bool) -> None:
    with contextlib.suppress(OSError):  # the exit code says it as well
        sys.stderr.write(f"{name}: error: {' '.join(message.split())}\n")
        if json:
            sys.stdout.write(to_json({"error": message}))
            sys.stdout.flush()
