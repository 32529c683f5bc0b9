"""Will the particles fit? Asked before anything runs.

The exact answer comes from the compiler, which costs a compilation. It is asked only
where it could matter: a network needs seldom more than a few thousand times the memory
of its input for one example.
"""

import math
import os
from functools import lru_cache
from typing import Any

import jax

from diffctl.core import Solver
from diffctl.operators.base import Problem

_COPIES = 4  # of all particles: now, chosen, noise, next
_NETWORK = 3000  # memory of one network call, in inputs, that is never exceeded


def check_memory(problem: Problem, prior: Any, solver: Any) -> None:
    """Raise ValueError if a step of a particle solver needs more memory than there is.

    It looks at one example: in a batch every example has particles of its own.
    """
    count, limit = solver.num_particles, available_memory()
    signal = math.prod(prior.shape) * solver.grid.sigma.dtype.itemsize
    at_once = min(count, solver.chunk_size or count)
    needed = _COPIES * count * signal
    if needed <= limit and needed + _NETWORK * at_once * signal > limit:
        needed = max(needed, forecast_memory(problem, prior, solver))
    if needed > limit:
        raise ValueError(
            f"{count} particles of shape {prior.shape}, {at_once} at a time in the "
            f"network, need about {_gigabytes(needed)}; the device has "
            f"{_gigabytes(limit)}. Reduce num_particles, or set a smaller chunk_size."
        )


def forecast_memory(problem: Problem, prior: Any, solver: Solver) -> int:
    """Return the bytes that one compiled step occupies, its arguments included.

    Nothing is run; the step is compiled, once for each program.
    """
    leaves, structure = jax.tree.flatten((problem, prior, solver))
    shapes = tuple(_shape(leaf) for leaf in leaves)
    return _compiled_size(structure, shapes)


def available_memory() -> float:
    """Return the bytes of the default device; on a CPU, those of the machine."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@lru_cache(maxsize=16)
def _compiled_size(structure: Any, shapes: tuple[Any, ...]) -> int:
    arguments = jax.tree.unflatten(structure, shapes)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def begin(key: Any, arguments: Any) -> Any:
        problem, prior, solver = arguments
        carry, xs = solver.init(key, problem, prior)
        return carry, jax.tree.map(lambda leaf: leaf[0], xs)

    def step(carry: Any, x: Any, arguments: Any) -> Any:
        problem, prior, solver = arguments
        return solver.step(carry, x, problem, prior)

    carry, x = jax.eval_shape(begin, key, arguments)
    memory: Any = jax.jit(step).lower(carry, x, arguments).compile().memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
    )


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    array = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype, weak_type=array.weak_type)


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
