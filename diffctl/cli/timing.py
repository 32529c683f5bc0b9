"""How long something took, compilation apart."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jax import monitoring

T = TypeVar("T")

# Tracing, lowering and compiling, or reading a compiled program from the cache.
_COMPILING = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


@dataclass(frozen=True)
class Timed:
    """A result with the seconds spent on compiling and on everything else."""

    result: Any
    compiling: float
    running: float


def timed(work: Callable[[], Any]) -> Timed:
    """Run `work`, wait for its arrays, and return the result with its times."""
    spent: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event in _COMPILING:
            spent.append(duration_secs)

    monitoring.register_event_duration_secs_listener(listen)
    started = time.perf_counter()
    try:
        result = jax.block_until_ready(work())
    finally:
        total = time.perf_counter() - started
        monitoring.unregister_event_duration_listener(listen)
    compiling = min(sum(spent), total)
    return Timed(result=result, compiling=compiling, running=total - compiling)
