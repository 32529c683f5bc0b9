"""Run the benchmarks and print one JSON document: `python -m experiments.bench`."""

import json
import platform
from dataclasses import dataclass
from typing import Any

import jax
import tyro

import diffctl
from experiments.bench import compilation, iteration, memory


@dataclass
class Bench:
    """What to measure; times are medians of `repeats` interleaved runs."""

    repeats: int = 7
    num_levels: int = 20


def main(bench: Bench) -> None:
    """Measure everything and print JSON."""
    shipped = diffctl.assets.digits_prior()
    larger = iteration.random_prior(64, 3, (64, 96, 160))
    report: dict[str, Any] = {
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
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main(tyro.cli(Bench))
