"""Will the particles fit? Asked before anything runs.

The exact answer comes from the compiler, which costs a compilation. It is asked only
where it could matter: a network needs seldom more than a few thousand times the memory
of its input for one example.
"""

import math
import os
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import jax

from diffctl.core import Solver
from diffctl.numerics.compiled import memory_analysis
from diffctl.operators.base import Problem

_COPIES = 4  # of all particles: now, chosen, noise, next
_NETWORK = 3000  # memory of one network call, in inputs, that is never exceeded


def require_memory(problem: Problem, prior: Any, solver: Any, examples: int) -> None:
    """Raise ValueError if a step of a particle solver needs more memory than there is.

    Args:
        problem: one example.
        prior: of all examples.
        solver: of all examples.
        examples: how many run at a time, each with particles of its own.
    """
    count, limit = solver.num_particles, available_memory()
    signal = examples * math.prod(prior.shape) * solver.grid.sigma.dtype.itemsize
    at_once = min(count, solver.chunk_size or count)
    needed = _COPIES * count * signal
    if needed <= limit and needed + _NETWORK * at_once * signal > limit:
        needed = max(needed, forecast_memory(problem, prior, solver, examples))
    if needed > limit:
        raise ValueError(
            f"{count} particles of shape {prior.shape}, {at_once} at a time in the "
            f"network, for {examples} examples at a time, need about "
            f"{_gigabytes(needed)}; there are {_gigabytes(limit)}. Reduce "
            "num_particles, or set a smaller chunk_size, of the solver or of "
            "solve_batch."
        )


def forecast_memory(
    problem: Problem, prior: Any, solver: Solver, examples: int = 1
) -> int:
    """Return the bytes that one compiled step occupies, its arguments included.

    Nothing is run; the step of one example is compiled, once for each program. Examples
    that run at the same time share prior and solver, and have all else of their own.
    """
    leaves, structure = jax.tree.flatten((problem, prior, solver))
    one = _compiled_size(structure, tuple(_shape(leaf) for leaf in leaves))
    shared = sum(_bytes(leaf) for leaf in jax.tree.leaves((prior, solver)))
    return shared + examples * (one - shared)


def available_memory() -> float:
    """Return the bytes of the default device; on a CPU, those that we may use."""
    statistics = jax.local_devices()[0].memory_stats()
    if statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, group_limit())


def group_limit(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> float:
    """Return the bytes that containers and job schedulers leave us, else infinity.

    That is the smallest limit of our control group and of those that it is part of, of
    either version of Linux's control groups.
    """
    texts = [file.read_text().strip() for file in _limit_files(root, own)]
    # Version 2 writes "max" for no limit; version 1 a number beyond any memory.
    return min((int(text) for text in texts if text.isdigit()), default=math.inf)


# Of a line of /proc/self/cgroup, where limits of memory are: by version 2 and 1.
_VERSIONS = {"": (".", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}


def _limit_files(root: Path, own: Path) -> list[Path]:
    found = []
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controller, group = line.split(":", 2)
        if controller in _VERSIONS:
            folder, name = _VERSIONS[controller]
            path = PurePosixPath(group.lstrip("/"))
            found += [root / folder / part / name for part in (path, *path.parents)]
    # A container sees its own group as the root, whatever path it is told.
    return [file for file in found if file.exists()]


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
    program = jax.jit(step, keep_unused=True).lower(carry, x, arguments)
    memory = memory_analysis(program)
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
    )


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    array = jax.typeof(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype, weak_type=array.weak_type)


def _bytes(leaf: Any) -> int:
    array = jax.typeof(leaf)
    return array.size * array.dtype.itemsize


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
