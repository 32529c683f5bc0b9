"""Wall times of compiled functions: warm-up, then medians with their spread."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def seconds(function: Callable[..., Any], *args: Any, repeats: int = 9) -> float:
    """Return the median wall time of a call in seconds, the first call excluded."""
    return statistics.median(samples(function, *args, repeats=repeats))


def samples(function: Callable[..., Any], *args: Any, repeats: int = 9) -> list[float]:
    """Return the wall times of `repeats` calls after one that is not counted."""
    jax.block_until_ready(function(*args))
    return [_once(function, *args) for _ in range(repeats)]


def interleaved(
    functions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]], repeats: int = 9
) -> dict[str, float]:
    """Return the median time of each function, taking turns.

    A slow phase of the machine then hits all of them alike, which keeps ratios honest.
    """
    for function, args in functions.values():
        jax.block_until_ready(function(*args))
    runs: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, (function, args) in functions.items():
            runs[name].append(_once(function, *args))
    return {name: statistics.median(times) for name, times in runs.items()}


def _once(function: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*args))
    return time.perf_counter() - start
