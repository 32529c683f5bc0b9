"""Ctrl-C: the program ends at once, and what it had half made is cleared away.

Signals are handled between bytecodes of the main thread, which a compilation or a
running program of XLA can hold up for a minute. What a handler raises surfaces
anywhere: in a callback of the garbage collector, where it is lost, or between native
calls. So the work has a thread of its own, the main thread waits, and the handler sets
a flag. The process then ends without the interpreter's shutdown, which crashes on
native threads that are still at work.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
Undo = Callable[[], str | None]

INTERRUPTED = 130

_WHOLE = threading.RLock()
_UNDO: list[Undo] = []


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """Let an interruption wait until the block is done; for a few renames."""
    with _WHOLE:
        yield


@contextlib.contextmanager
def if_interrupted(undo: Undo) -> Iterator[None]:
    """Call `undo` if Ctrl-C ends the process within the block.

    Args:
        undo: what it returns is said to the user.
    """
    with _WHOLE:
        _UNDO.append(undo)
    try:
        yield
    finally:
        with _WHOLE:
            _UNDO.remove(undo)


def answered(name: str, work: Callable[[], T], *, for_good: bool = False) -> T:
    """Return `work()`; Ctrl-C ends the process with 130 without waiting for it.

    Where Ctrl-C is ignored, as in the background of a script, it stays so.

    Args:
        name: of the program.
        work: what to do; it runs in another thread.
        for_good: the process does nothing else afterwards.
    """
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before in (signal.SIG_IGN, None):  # None: not Python's own
        return work()
    asked = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: asked.set())
    try:
        future: Future[T] = Future()
        thread = threading.Thread(target=_fill, args=(future, work), daemon=True)
        thread.start()
        while thread.is_alive() and not asked.is_set():
            thread.join(timeout=0.05)
        if asked.is_set():
            _leave(name)
        return future.result()
    finally:
        signal.signal(signal.SIGINT, _exit_quietly if for_good else before)


def exit_while_loading() -> None:
    """Exit with 130 on Ctrl-C while a program is loaded by `python -m`.

    Called by packages that are programs. Does nothing when they are imported: only
    while Python looks for the module to run is the first argument "-m".
    """
    loading = sys.argv[:1] == ["-m"]
    if loading and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit_quietly)


def _fill(future: Future[T], work: Callable[[], T]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


def _leave(name: str) -> NoReturn:
    """Undo what was begun, say so, and end the process."""
    try:
        _WHOLE.acquire()  # for good: nothing that has to be whole begins any more
        said = []
        for undo in reversed(_UNDO):
            try:
                said.append(undo())
            except Exception as error:  # the others are to be undone all the same
                said.append(f"{type(error).__name__}: {error}.")
        sentence = " ".join(["interrupted.", *(words for words in said if words)])
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            sys.stdout.flush()
        with contextlib.suppress(OSError):  # nobody reads it, or the disk is full
            os.write(2, f"\n{name}: {sentence}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(INTERRUPTED)


def _exit_quietly(*_: Any) -> NoReturn:
    os._exit(INTERRUPTED)
