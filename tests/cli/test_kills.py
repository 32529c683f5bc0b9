"""Programs killed at random moments and started again end in the same numbers."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.source import ROOT

KILLS = 20
_AGAIN = ("--resume",)

# Each program as users run it, on problems small enough to be killed often: the solve
# is saved every few steps instead of every 20 s, the demo makes few steps.
_MAIN = "from diffctl.cli.main import main; sys.exit(main(sys.argv[1:]))"
_TRAIN = f"import sys; {_MAIN}"
_RECONSTRUCT = (
    "import sys; from diffctl.cli import reconstruct; "
    f"reconstruct._SECONDS_BETWEEN_CHECKPOINTS = 0.2; {_MAIN}"
)
_DEMO = (
    "import sys; from diffctl.cli import demo; "
    f"demo.run.__defaults__ = (demo.Budget(2, 1, 3),); {_MAIN}"
)


@dataclass(frozen=True)
class Program:
    """How to start it, how to start it again, and what of its output is compared."""

    command: list[str]
    again: tuple[str, ...]
    numbers: Callable[[Path], Any]
    done: Callable[[Path], bool] = Path.is_dir


def _weights(out: Path) -> Any:
    losses = json.loads((out / "training.json").read_text())["loss"]
    return (out / "weights.safetensors").read_bytes(), losses


def _picture(out: Path) -> Any:
    manifest = json.loads((out / "manifest.json").read_text())
    picture = (out / "reconstruction.png").read_bytes()
    return picture, manifest["scores"], manifest["calls"]


def _demo(out: Path) -> Any:
    results = json.loads((out / "results.json").read_text())["results"]
    names = ("task", "solver", "psnr", "ssim", "misfit", "status", "forwards")
    rows = [[row[name] for name in names] for row in results]
    return (out / "figure.png").read_bytes(), rows


def _results(out: Path) -> Any:
    return {
        str(path.relative_to(out)): json.loads(path.read_text())["images"]
        for path in sorted(out.glob("results/*/*.json"))
    }


@pytest.fixture
def program(request, data_file, picture, prior_folder) -> Program:
    training = ["train", "classifier", "--data", str(data_file), "--num-steps", "100"]
    training += ["--batch-size", "8", "--warmup", "1", "--width", "2"]
    training += ["--checkpoint-every", "10"]
    solving = ["reconstruct", "--task", "box_inpainting", "--solver", "dps"]
    solving += ["--steps", "80", "--image", str(picture)]
    solving += ["--prior", str(prior_folder)]
    table = ["--count", "6", "--chunk", "1", "--studies", "mixture", "--levels", "5"]
    python = [sys.executable, "-c"]
    robustness = [sys.executable, "-m", "experiments.robustness", *table]
    return {
        "train": Program(
            [*python, f"import sys; {_MAIN}", *training], _AGAIN, _weights
        ),
        "reconstruct": Program([*python, _RECONSTRUCT, *solving], _AGAIN, _picture),
        "demo": Program([*python, _DEMO, "demo", "--digits", "1"], (), _demo),
        "experiment": Program(robustness, (), _results, lambda out: False),
    }[request.param]


def _start(program: Program, out: Path, *more: str) -> subprocess.Popen[str]:
    folders = {"JAX_COMPILATION_CACHE_DIR": str(out.parent / "xla")}
    return subprocess.Popen(
        [*program.command, "--out", str(out), *more],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | folders,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def _finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def _kill(process: subprocess.Popen[str]) -> bool:
    """Return whether it was still running."""
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", ["train", "reconstruct", "demo", "experiment"], indirect=True
)
def test_killed_programs_end_in_the_same_numbers(program, tmp_path, capsys):
    for name in ("first", "whole"):  # the second run finds programs compiled
        started = time.monotonic()
        _finish(_start(program, tmp_path / name))
        seconds = time.monotonic() - started
    expected, rng = program.numbers(tmp_path / "whole"), random.Random(0)
    assert program.numbers(tmp_path / "first") == expected
    kills = runs = resumed = 0
    while kills < KILLS:
        out, more = tmp_path / f"run{runs}", ()
        for _ in range(rng.randint(1, 4)):
            process = _start(program, out, *more)
            time.sleep(rng.uniform(0.3, 1.0) * seconds)
            kills += _kill(process)
            resumed += (tmp_path / f"{out.name}.unfinished" / "checkpoint").is_dir()
            more = program.again
            if program.done(out):
                break
        else:
            _finish(_start(program, out, *more))
            left = {path.name for path in tmp_path.iterdir() if out.name in path.name}
            assert left == {out.name}, "nothing is left of the killed runs"
        assert program.numbers(out) == expected
        runs += 1
    with capsys.disabled():
        sys.stdout.write(f"\n{kills} kills in {runs} runs, {resumed} checkpoints")
