"""Batches: one example after the next is the meaning, `vmap` and a mesh the means.

Example i is solved with `fold_in(key, ids[i])`, so its result does not depend on batch
size, chunks, device count or the point of resumption.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from diffctl.core import Solution, Solver
from diffctl.numerics.batching import chunked_vmap, shared_out
from diffctl.numerics.concrete import concrete
from diffctl.operators.base import Problem
from diffctl.solvers import progress
from diffctl.solvers.driver import run
from diffctl.solvers.requirements import check_inputs

MEASUREMENTS_ONLY: Any = Problem(y=0, operator=None, noise=None)  # type: ignore[arg-type]


def solve_batch(
    key: jax.Array,
    problems: Problem,
    prior: Any,
    solver: Solver,
    *,
    axes: Any = MEASUREMENTS_ONLY,
    ids: jax.Array | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
) -> Solution:
    """Solve many inverse problems with the same prior and solver.

    Args:
        key: typed PRNG key of the whole batch.
        problems: a `Problem` some of whose leaves have a batch axis.
        prior: an object of the class that the solver needs, shared.
        solver: which algorithm, shared.
        axes: which leaves of `problems` are mapped, as an `in_axes` prefix of 0 and
            None; by default the measurement is mapped, operator and noise are shared.
        ids: integers (batch,) that name the examples, by default 0, 1, 2, ...
        chunk_size: examples solved at the same time per device; None means all.
        mesh: devices over whose first axis the batch is split; examples that do not
            fill the last device are padded by copies and dropped again.

    Returns:
        A `Solution` whose leaves have a leading batch axis.

    Raises:
        TypeError, ValueError: as `solve` for the first example that is finite, and for
            the noise of every one with what it asks of the measurement (labels in
            range); also for mapped leaves of different lengths.
    """
    is_mapped, leaves, structure = _partition(problems, axes)
    mapped = [leaf for leaf, flag in zip(leaves, is_mapped, strict=True) if flag]
    size = _batch_size(mapped)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; expected at least 1, or None.")

    flags = jax.tree.unflatten(structure, is_mapped)
    known = jax.tree.map(_on_host, problems, flags)
    number = _first_finite(known.y, flags.y, size)
    first = _example(known, flags, number)
    with _naming(number):
        at_once = _at_once(size, chunk_size, mesh)
        check_inputs(first, prior, solver, examples=at_once)
    _check_noise(known, flags, first.operator.measurement_spec(), size)
    ids = jnp.arange(size) if ids is None else jnp.asarray(ids)
    if ids.shape != (size,) or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            f"ids has shape {ids.shape} and dtype {ids.dtype}; expected one whole "
            f"number for each of {size} examples."
        )
    shared = [leaf for leaf, flag in zip(leaves, is_mapped, strict=True) if not flag]
    padding = 0 if mesh is None else -size % mesh.shape[mesh.axis_names[0]]
    examples = jax.tree.map(partial(_pad, count=padding), (ids, mapped))
    plan = BatchPlan(
        is_mapped=is_mapped,
        structure=structure,
        chunk_size=chunk_size,
        # With the explicit axes of jax.make_mesh, shard_map wants its inputs placed.
        mesh=None if mesh is None else Mesh(mesh.devices, mesh.axis_names),
        report=progress.listening(),
    )
    solution = _solve_batch(key, examples, shared, prior, solver, plan=plan)
    return jax.tree.map(lambda leaf: leaf[:size], solution) if padding else solution


@dataclass(frozen=True)
class BatchPlan:
    """The static part of a batched solve."""

    is_mapped: tuple[bool, ...]  # of each leaf of the problem
    structure: Any  # treedef of the problem
    chunk_size: int | None
    mesh: Mesh | None
    report: bool


@partial(jax.jit, static_argnames="plan")
def _solve_batch(
    key: jax.Array,
    examples: tuple[jax.Array, list[jax.Array]],
    shared: list[jax.Array],
    prior: Any,
    solver: Solver,
    *,
    plan: BatchPlan,
) -> Solution:
    def one(
        key: jax.Array, shared: Any, prior: Any, solver: Any, example: Any
    ) -> Solution:
        example_id, own = example
        own_leaves, shared_leaves = iter(own), iter(shared)
        leaves = [
            next(own_leaves if flag else shared_leaves) for flag in plan.is_mapped
        ]
        problem = jax.tree.unflatten(plan.structure, leaves)
        example_key = jax.random.fold_in(key, example_id)
        return run(example_key, problem, prior, solver, report=plan.report)

    def many(
        key: jax.Array, shared: Any, prior: Any, solver: Any, examples: Any
    ) -> Solution:
        solve_one = partial(one, key, shared, prior, solver)
        return chunked_vmap(solve_one, plan.chunk_size)(examples)

    across = shared_out(many, plan.mesh, num_shared=4)
    return across(key, shared, prior, solver, examples)


def _partition(problems: Problem, axes: Any) -> tuple[tuple[bool, ...], list[Any], Any]:
    """Flatten `problems`; say of each leaf whether it has a batch axis."""
    leaves, structure = jax.tree.flatten(problems)
    flags: list[bool] = []

    def mark(axis: Any, part: Any) -> None:
        if axis not in (0, None):
            raise ValueError(
                f"axes holds {axis!r}; expected 0 (mapped) or None (shared)."
            )
        flags.extend([axis == 0] * len(jax.tree.leaves(part)))

    jax.tree.map(mark, axes, problems, is_leaf=lambda axis: axis is None)
    return tuple(flags), leaves, structure


def _batch_size(mapped: list[Any]) -> int:
    if not mapped or any(jnp.ndim(leaf) == 0 for leaf in mapped):
        raise ValueError(
            "a batch needs mapped leaves, each with a batch axis; `axes` marks "
            f"{len(mapped)} leaves of the shapes {[jnp.shape(m) for m in mapped]}. "
            "For a single example use solve."
        )
    sizes = {jnp.shape(leaf)[0] for leaf in mapped}
    if len(sizes) != 1:
        raise ValueError(
            f"The mapped leaves have the batch sizes {sorted(sizes)}; expected one "
            "size. Mark shared leaves with None in `axes`."
        )
    size = int(sizes.pop())
    if size == 0:
        raise ValueError("the batch is empty; expected at least one example.")
    return size


def _at_once(size: int, chunk_size: int | None, mesh: Mesh | None) -> int:
    """Return how many examples run at a time in one memory."""
    if mesh is None:
        return min(size, chunk_size or size)
    own = -(-size // mesh.shape[mesh.axis_names[0]])
    own = min(own, chunk_size or own)
    # The devices of a CPU, of all axes, share its memory.
    return own * mesh.size if mesh.devices.flat[0].platform == "cpu" else own


def _on_host(leaf: Any, is_mapped: bool) -> Any:
    """Return a leaf with a batch axis in NumPy, if its numbers are known.

    Checks take it apart, which under `jax.jit` must not be traced.
    """
    numbers = concrete(leaf) if is_mapped else None
    return leaf if numbers is None else numbers


def _example(batch: Any, is_mapped: Any, i: int) -> Any:
    """Return example i of a pytree some of whose leaves have a batch axis."""
    return jax.tree.map(lambda leaf, flag: leaf[i] if flag else leaf, batch, is_mapped)


def _first_finite(y: Any, is_mapped: Any, size: int) -> int:
    """Return the first example whose measurement is finite, 0 if none is.

    A ruined example gets a status and leaves the others alone, also if it comes first.
    """
    leaves = zip(jax.tree.leaves(y), jax.tree.leaves(is_mapped), strict=True)
    known = [leaf for leaf, flag in leaves if flag and isinstance(leaf, np.ndarray)]

    def is_finite(i: int) -> bool:
        return all(np.all(np.isfinite(leaf[i])) for leaf in known)

    return next(filter(is_finite, range(size)), 0)


def _check_noise(problems: Problem, is_mapped: Problem, clean: Any, size: int) -> None:
    """Check the noise of all examples.

    That includes what a noise model asks of a measurement, such as a label in range.
    """
    parts, flags = (problems.y, problems.noise), (is_mapped.y, is_mapped.noise)
    for i in range(size if any(jax.tree.leaves(flags)) else 0):
        with _naming(i):
            y, noise = _example(parts, flags, i)
            noise.check(y, clean)


@contextmanager
def _naming(i: int) -> Iterator[None]:
    """Let a ValueError say at which example of the batch it came up."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"checking example {i} of the batch: {error}") from error


def _pad(leaf: jax.Array, count: int) -> jax.Array:
    return (
        jnp.concatenate([leaf, jnp.repeat(leaf[-1:], count, axis=0)]) if count else leaf
    )
