"""Long work in a thread of its own, so that Ctrl-C is answered at once.

Signals are handled between bytecodes of the main thread, which a compilation or a
running program of XLA can hold up for a minute.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_THREAD_NAME = "diffctl-worker"


def interruptible(work: Callable[[], T]) -> T:
    """Return `work()`; `KeyboardInterrupt` does not wait for it to end."""
    future: Future[T] = Future()

    def body() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=body, name=_THREAD_NAME, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.1)
    return future.result()


def abandoned() -> bool:
    """Return whether work goes on that nobody waits for."""
    return any(thread.name == _THREAD_NAME for thread in threading.enumerate())


def leave(code: int) -> int:
    """Return an exit code; end the process at once if abandoned work goes on."""
    if abandoned():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
