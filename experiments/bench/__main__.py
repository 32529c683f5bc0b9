"""Run the benchmarks and print one JSON document: `python -m experiments.bench`."""

import platform
import sys
from dataclasses import dataclass
from typing import Any

import jax

import diffctl
from diffctl.host import Count
from experiments.bench import compilation, iteration, memory
from experiments.common import measured


@dataclass
class Bench:
    """What to measure; times are medians of `repeats` interleaved runs."""

    repeats: Count = 7
    num_levels: Count = 20


def measure(bench: Bench) -> dict[str, Any]:
    """Measure everything."""
    shipped = diffctl.assets.digits_prior()
    larger = iteration.random_prior(64, 3, (64, 96, 160))
    return {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "devices": [str(device) for device in jax.devices()],
            "jax": jax.__version__,
            "diffctl": diffctl.__version__,
        },
        "iteration_shipped_prior": iteration.measure(
            shipped, bench.num_levels, (0, 1, 4), bench.repeats
        ),
        "iteration_64x64": iteration.measure(
            larger, bench.num_levels, (0, 1, 4), bench.repeats
        ),
        "memory": memory.measure(shipped, (10, 50, 200)),
        "batch": memory.measure_batches(shipped, (1, 8), bench.repeats),
        "compilation": compilation.measure(),
    }


if __name__ == "__main__":
    sys.exit(measured("bench", Bench, measure))
