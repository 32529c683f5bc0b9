"""Converting an FFHQ-size file: seconds and peak memory of a process of its own.

`python -m experiments.bench.conversion` prints JSON. The file of 374 MB is written
first, as safetensors; with `--torch-python` PyTorch writes it by `torch.save`.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffctl.host import temporary_folder
from experiments.bench import network
from experiments.common import measured
from weights_convert import export
from weights_convert.families import FAMILIES

_CONVERT = """
import json, sys, time
start = time.perf_counter()
from weights_convert.cli import main
code = main(sys.argv[1:])
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0])
found = {"code": code, "seconds": time.perf_counter() - start, "peak_mb": peak / 1024}
print(json.dumps(found))
"""
_SAVE = """
import sys, numpy, torch
with numpy.load(sys.argv[1]) as file:
    torch.save({name: torch.from_numpy(file[name]) for name in file.files}, sys.argv[2])
"""


@dataclass
class Bench:
    """With which PyTorch to write the file, if any."""

    torch_python: Path | None = None


def measure(bench: Bench) -> dict[str, Any]:
    """Return the size of the file, and seconds and peak megabytes of its conversion."""
    with temporary_folder() as folder:
        file = _write(folder, bench.torch_python)
        words = [str(file), "--config", "ffhq", "--out", str(folder / "out")]
        done = subprocess.run(
            [sys.executable, "-c", _CONVERT, *words],
            check=True,
            capture_output=True,
            text=True,
        )
        found = json.loads(done.stdout.strip().splitlines()[-1])
        return {"file": file.name, "file_mb": file.stat().st_size / 2**20} | found


def _write(folder: Path, torch_python: Path | None) -> Path:
    family = FAMILIES["guided-diffusion"]
    net, described = network.random_network(), network.architecture()
    tensors = export.tensors(net, described, family, "legacy")
    if torch_python is None:
        export.write(folder / "model.safetensors", tensors)
        return folder / "model.safetensors"
    arrays: dict[str, Any] = {
        name: np.ascontiguousarray(array) for name, array in tensors.items()
    }
    np.savez(folder / "weights.npz", **arrays)
    paths = [str(folder / "weights.npz"), str(folder / "model.pt")]
    subprocess.run([str(torch_python), "-c", _SAVE, *paths], check=True)
    return folder / "model.pt"


if __name__ == "__main__":
    sys.exit(measured("bench.conversion", Bench, measure))
