"""Live progress of compiled solves, for whoever listens on the host.

While nobody listens the compiled program contains no callback at all.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax

Listener = Callable[[int, int], None]

_listeners: list[Listener] = []


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Call `listener(step, num_steps)` after each step of solves started inside.

    Steps count from 1. Under `vmap` there is one call per step for the whole batch;
    with chunks, one sequence of calls per chunk; with a mesh, one per device too. Calls
    arrive unordered from a thread of the runtime, so a listener should be quick and
    limit its own rate. The first solve with a listener compiles anew.
    """
    _listeners.append(listener)
    try:
        yield
        jax.effects_barrier()
    finally:
        _listeners.remove(listener)


def listening() -> bool:
    """Return whether anybody listens."""
    return bool(_listeners)


def report(step: jax.Array, num_steps: int) -> None:
    """Emit a callback inside a traced step; `step` () must not be batched."""
    jax.debug.callback(_notify, step + 1, num_steps)


def _notify(step: jax.Array, num_steps: int) -> None:
    for listener in tuple(_listeners):
        listener(int(step), int(num_steps))
