"""What a conversion holds in memory, and that it is the same every time."""

import os
import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.source import ROOT
from tests.weights_convert.readers.files import stream_file, zip_file
from weights_convert.cli import main
from weights_convert.readers import tensors

LIMIT = 1.3  # of the file


def _arrays(hidden, dtype="float32"):
    """Return a classifier whose size is almost that of one tensor."""
    rng = np.random.default_rng(0)
    shapes = {
        **{"conv1.weight": (32, 1, 3, 3), "conv1.bias": (32,)},
        **{"conv2.weight": (64, 32, 3, 3), "conv2.bias": (64,)},
        **{"fc1.weight": (hidden, 3136), "fc1.bias": (hidden,)},
        **{"fc2.weight": (10, hidden), "fc2.bias": (10,)},
    }
    return {n: rng.random(s, np.float32).astype(dtype) for n, s in shapes.items()}


@pytest.fixture
def convert(tmp_path):
    (tmp_path / "config.json").write_text('{"image_size": 28, "padding": 1}')

    def run(file, out, *arguments):
        assert main([str(file), "--out", str(tmp_path / out), *arguments]) == 0
        files = sorted((tmp_path / out).iterdir())
        return {path.name: path.read_bytes() for path in files}

    return run


@pytest.mark.parametrize("kind", ["safetensors", "zip", "stream"])
@pytest.mark.parametrize("dtype", ["stored", "float16", "float32"])
def test_a_conversion_holds_little_more_than_its_largest_tensor(
    kind, dtype, tmp_path, convert, monkeypatch
):
    """All arrays that are made; steps and file are a tenth of the usual ones."""
    arrays = _arrays(1600, ml_dtypes.bfloat16 if dtype == "float32" else "float32")
    path = tmp_path / "model"
    if kind == "safetensors":
        save_file(arrays, path)
    else:
        path.write_bytes((zip_file if kind == "zip" else stream_file)(arrays))
    del arrays
    convert(path, "first", "--dtype", dtype)  # programs are compiled, modules loaded
    monkeypatch.setattr(tensors, "_STEP", 1 << 20)
    arguments = [str(path), "--out", str(tmp_path / "second"), "--dtype", dtype]
    tracemalloc.start()
    try:
        assert main(arguments) == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= LIMIT * path.stat().st_size


def test_converting_a_file_twice_gives_the_same_bytes(tmp_path, convert):
    save_file(_arrays(8), tmp_path / "model.safetensors")
    found = [convert(tmp_path / "model.safetensors", f"out{i}") for i in range(2)]
    assert found[0] == found[1]
    assert set(found[0]) == {"model.json", "weights.safetensors"}


PROGRAM = """
import sys
from weights_convert.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print([line.split()[1] for line in status if line.startswith("VmHWM")][0])
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its memory")
@pytest.mark.parametrize("dtype", ["stored", "bfloat16"])
def test_memory_and_bytes_of_a_large_conversion(tmp_path, dtype):
    """In processes with other hashes of text. Measured 1.15 and 1.13 of 201 MB."""
    (tmp_path / "config.json").write_text('{"image_size": 28, "padding": 1}')
    peaks = []
    for name, hidden, seed in (("small", 8, 1), ("large", 16_000, 2), ("large", 0, 3)):
        path = tmp_path / f"{name}.safetensors"
        if hidden:
            save_file(_arrays(hidden), path)
        out = tmp_path / f"out{seed}"
        command = [sys.executable, "-c", PROGRAM, str(path), "--out", str(out)]
        done = subprocess.run(
            [*command, "--dtype", dtype],
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(1024 * int(done.stdout.split()[-1]))
    size = (tmp_path / "large.safetensors").stat().st_size
    assert size > 200e6
    assert max(peaks[1:]) - peaks[0] <= LIMIT * size, [p / size for p in peaks]
    for name in ("weights.safetensors", "model.json"):
        first, second = ((tmp_path / f"out{i}" / name).read_bytes() for i in (2, 3))
        assert first == second
