"""Our FFHQ-size network against the same layers in PyTorch, taking turns.

    python -m experiments.bench.torch_reference --torch-python VENV/bin/python

PyTorch is no dependency: it lives in an environment of its own, whose Python runs
`torch_unet.py` as a subprocess. Both have the same weights, so that the outputs tell
whether the same was computed. Prints JSON: wall and processor seconds of both and
their ratios, ours over PyTorch's. Ours uses as many threads as the environment allows
(`XLA_FLAGS`, `taskset`); `--threads` sets those of PyTorch.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffctl.host import temporary_folder
from experiments.bench import network
from experiments.bench.network import medians, timed
from experiments.common import measured
from weights_convert import export
from weights_convert.families import FAMILIES

_SCRIPT = Path(__file__).with_name("torch_unet.py")


@dataclass
class Bench:
    """What to measure, and with which PyTorch."""

    torch_python: Path
    repeats: int = 3
    size: int = network.SIZE
    threads: int = 1


class Torch:
    """The other process."""

    def __init__(self, bench: Bench, folder: Path):
        command = [str(bench.torch_python), str(_SCRIPT), str(folder)]
        self._folder = folder
        self._process = subprocess.Popen(
            [*command, str(bench.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.about = self._answer()

    def run(self, name: str) -> dict[str, float]:
        """Run a function once and return its seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        return self._answer()

    def found(self) -> dict[str, np.ndarray]:
        """Return what the last run computed, channels last, without the batch."""
        with np.load(self._folder / "found.npz") as file:
            return {name: file[name][0].transpose(1, 2, 0) for name in file.files}

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process with PyTorch ended; its message is above.")
        return json.loads(line)


def measure(bench: Bench) -> dict[str, Any]:
    """Return the seconds of both, their ratios and how far the results differ."""
    net, arrays = network.random_network(), network.inputs(bench.size)
    with temporary_folder() as folder:
        _write(folder, net, arrays)
        torch = Torch(bench, folder)
        try:
            return _compare(bench, net, arrays, torch)
        finally:
            torch.close()


def _compare(
    bench: Bench, net: Any, arrays: dict[str, np.ndarray], torch: Torch
) -> dict[str, Any]:
    net = jax.tree.map(jnp.asarray, net)
    report: dict[str, Any] = {"pytorch": torch.about, "size": bench.size}
    for name, function in network.functions().items():
        ours, theirs = [], []
        result, _ = timed(function, net, *arrays.values())
        torch.run(name)
        expected = torch.found()
        for _ in range(bench.repeats):
            ours.append(timed(function, net, *arrays.values())[1])
            theirs.append(torch.run(name))
        mine, other = medians(ours), medians(theirs)
        report[name] = {
            "ours": mine,
            "pytorch": other,
            "ratio": {kind: mine[kind] / other[kind] for kind in mine},
            "relative_difference": {
                key: float(
                    np.linalg.norm(np.asarray(result[key]) - array)
                    / np.linalg.norm(array)
                )
                for key, array in expected.items()
            },
        }
    return report


def _write(folder: Path, net: Any, arrays: dict[str, np.ndarray]) -> None:
    """Write what the other process reads, in the layout of PyTorch."""
    family = FAMILIES["guided-diffusion"]
    tensors = export.tensors(net, network.architecture(), family, "legacy")
    contiguous: dict[str, Any] = {
        n: np.ascontiguousarray(array) for n, array in tensors.items()
    }
    np.savez(folder / "weights.npz", **contiguous)
    (folder / "settings.json").write_text(json.dumps(network.SETTINGS))
    first: dict[str, Any] = {
        name: np.ascontiguousarray(array[None].transpose(0, 3, 1, 2))
        for name, array in arrays.items()
        if array.ndim
    }
    np.savez(folder / "inputs.npz", **first, t=arrays["t"][None])


if __name__ == "__main__":
    sys.exit(measured("bench.torch_reference", Bench, measure))
