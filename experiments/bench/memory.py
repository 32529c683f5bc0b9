"""Temporary memory of the compiled DOC, as the compiler reports it."""

from typing import Any

import jax
import jax.numpy as jnp

import diffctl
from diffctl.control import Recompute, StorePullbacks
from diffctl.numerics.compiled import memory_analysis
from experiments.bench.iteration import doc_iteration
from experiments.common.timing import interleaved

MEGABYTE = 2**20


def measure(prior: Any, levels: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return temporary and state megabytes of one rank-0 iteration for each T."""
    rows = []
    for num_levels in levels:
        for linearisation in (Recompute(), StorePullbacks()):
            step, args = doc_iteration(prior, num_levels, 0, linearisation)
            analysis = memory_analysis(step.lower(*args))
            image = jnp.zeros(prior.shape).nbytes
            rows.append(
                {
                    "num_levels": num_levels,
                    "linearisation": type(linearisation).__name__,
                    "temporary_mb": analysis.temp_size_in_bytes / MEGABYTE,
                    "one_trajectory_mb": image * num_levels / MEGABYTE,
                    "output_mb": analysis.output_size_in_bytes / MEGABYTE,
                }
            )
    return rows


def measure_batches(prior: Any, sizes: tuple[int, ...], repeats: int) -> dict[str, Any]:
    """Return seconds of a short DOC solve for each batch size, and the spread of x."""
    key = jax.random.key(0)
    operator = diffctl.operators.Mask.random(key, prior.shape, drop_fraction=0.5)
    noise = diffctl.GaussianNoise(std=0.05)
    x0 = jnp.zeros(prior.shape)
    solver = diffctl.solvers.DOC(grid=diffctl.grids.karras(10, 0.02, 20.0), num_steps=2)

    def problems(size: int) -> diffctl.Problem:
        keys = jax.random.split(key, size)
        y = jnp.stack([diffctl.simulate(k, operator, noise, x0) for k in keys])
        return diffctl.Problem(y=y, operator=operator, noise=noise)

    runs = {
        str(n): (diffctl.solve_batch, (key, problems(n), prior, solver)) for n in sizes
    }
    times = interleaved(runs, repeats)
    first = {n: diffctl.solve_batch(*args).x[0] for n, (_, args) in runs.items()}
    reference = first[str(sizes[0])]
    return {
        "seconds": times,
        "largest_difference_of_example_0": {
            n: float(jnp.max(jnp.abs(x - reference))) for n, x in first.items()
        },
    }
