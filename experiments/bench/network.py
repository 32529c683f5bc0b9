"""The FFHQ-size ADM network: a forward, and a forward with its VJP, batch 1, float32.

`python -m experiments.bench.network` prints JSON: wall and processor seconds, medians
of runs that take turns, for random weights. The network has 93.6 million parameters and
a forward takes 388 GFLOP, of which the achieved rate is reported.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.host import Count
from diffctl.nets import Architecture
from experiments.common import measured

FORWARD_FLOP = 388e9
SIZE = 256
SETTINGS: dict[str, Any] = {
    "channels": [3, 6],
    "width": 128,
    "levels": [
        {"width": 128 * m, "blocks": 1, "heads": heads, "heads_up": heads}
        for m, heads in zip((1, 1, 2, 2, 4, 4), (0, 0, 0, 0, 8, 0), strict=True)
    ],
    "middle_heads": 8,
}


@dataclass
class Bench:
    """What to measure."""

    repeats: Count = 3
    size: Count = SIZE


def architecture() -> Architecture:
    """Return the description of the network."""
    return Architecture.of("adm_unet", **SETTINGS)


def random_network() -> Any:
    """Return the network with random weights of variance 1 / fan-in."""
    leaves, structure = jax.tree.flatten(architecture().abstract())
    source = np.random.default_rng(0)
    drawn = [_drawn(source, leaf.shape) for leaf in leaves]
    return jax.tree.unflatten(structure, drawn)


def inputs(size: int) -> dict[str, np.ndarray]:
    """Return an image, a time step and a cotangent."""
    source = np.random.default_rng(1)
    draw = lambda channels: source.normal(size=(size, size, channels))  # noqa: E731
    arrays = {"x": draw(3), "t": np.array(500.0), "ct": draw(6)}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def functions() -> dict[str, Callable[..., dict[str, jax.Array]]]:
    """Return the compiled functions of network, image, time step and cotangent."""

    def forward(net: Any, x: Any, t: Any, ct: Any) -> dict[str, jax.Array]:
        return {"out": net(x, t)}

    def forward_vjp(net: Any, x: Any, t: Any, ct: Any) -> dict[str, jax.Array]:
        out, pull = jax.vjp(lambda x: net(x, t), x)
        return {"out": out, "vjp": pull(ct)[0]}

    return {"forward": jax.jit(forward), "forward_vjp": jax.jit(forward_vjp)}


def timed(function: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, float]]:
    """Return the result and the wall and processor seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function(*args))
    spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return result, spent


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each kind of seconds."""
    return {kind: statistics.median(run[kind] for run in runs) for kind in runs[0]}


def measure(bench: Bench) -> dict[str, Any]:
    """Return seconds and achieved GFLOP/s of both functions."""
    net = jax.tree.map(jnp.asarray, random_network())
    arrays = tuple(inputs(bench.size).values())
    compiled = functions()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in compiled}
    first = {n: timed(f, net, *arrays)[1]["wall"] for n, f in compiled.items()}
    for _ in range(bench.repeats):
        for name, function in compiled.items():
            runs[name].append(timed(function, net, *arrays)[1])
    seconds = {name: medians(each) for name, each in runs.items()}
    pixels = (bench.size / SIZE) ** 2
    return {
        "size": bench.size,
        "repeats": bench.repeats,
        "devices": [str(device) for device in jax.devices()],
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(net)),
        "first_call_seconds": first,
        "seconds": seconds,
        "forward_gflops": pixels * FORWARD_FLOP / 1e9 / seconds["forward"]["wall"],
    }


def _drawn(source: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) < 2:
        return (1 + 0.1 * source.normal(size=shape)).astype(np.float32)
    scale = 1 / math.sqrt(math.prod(shape[:-1]))
    return (scale * source.standard_normal(shape, np.float32)).astype(np.float32)


if __name__ == "__main__":
    sys.exit(measured("bench.network", Bench, measure))
