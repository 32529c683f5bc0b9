"""`diffctl train`: kills, resumption, refusals, what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.cli import train as module
from diffctl.cli.main import main
from diffctl.priors import NetworkPrior
from diffctl.priors.storage import read_model
from tests.cli.conftest import STEPS
from tests.source import ROOT

_SIGINT_AS_IN_A_TERMINAL = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from diffctl.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def _weights(folder):
    return (folder / "weights.safetensors").read_bytes()


def test_a_killed_training_ends_in_the_same_bits(
    classifier, tmp_path, monkeypatch, capsys
):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(classifier(whole)) == 0
    save = module.Unfinished.save

    def save_then_die(self, state):
        save(self, state)
        if int(state["state"].step) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.Unfinished, "save", save_then_die)
        capsys.readouterr()
        assert main(classifier(killed)) == 130
    # The process stopped inside the save of step 4; the record says what is safe.
    assert "--resume" in capsys.readouterr().err
    assert not killed.exists()
    assert main(classifier(killed)) == 2
    assert main(classifier(killed, "--resume", "--peak-rate", "1")) == 2
    assert "peak_rate was 0.001, now 1.0" in capsys.readouterr().err
    assert main(classifier(killed, "--resume")) == 0
    assert _weights(whole) == _weights(killed)
    curves = [
        json.loads((folder / "training.json").read_text())["loss"]
        for folder in (whole, killed)
    ]
    assert curves[0] == curves[1]
    assert [step for step, _ in curves[0]] == list(range(1, STEPS + 1))
    assert not (tmp_path / "killed.unfinished").exists()
    assert main(classifier(killed)) == 2, "a finished model is not overwritten"
    net, description = read_model(whole, kind="classifier")
    assert description["notes"]["held_out_images"] == 6
    assert net(jnp.zeros((12, 12, 1))).shape == (3,)


def test_training_goes_on_from_a_model(classifier, tmp_path, capsys):
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    assert main(classifier(first)) == 0
    start = ("--start-from", str(first))
    assert main(classifier(second, *start, "--peak-rate", "1e-12")) == 0
    nets = [read_model(folder, kind="classifier")[0] for folder in (first, second)]
    chex.assert_trees_all_close(*nets, rtol=0, atol=1e-7)
    settings = json.loads((second / "training.json").read_text())["settings"]
    assert len(settings["start_from_sha256"]) == 64
    assert "start_from" not in settings, "a path of this machine"
    assert main(classifier(other, *start, "--width", "3")) == 2
    assert "holds a network of other shapes" in capsys.readouterr().err
    assert main(classifier(other, "--start-from", str(tmp_path / "none"))) == 2
    assert "does not exist" in capsys.readouterr().err


def _training(arguments):
    """Start a real process, for a real signal."""
    return subprocess.Popen(
        [sys.executable, "-c", _SIGINT_AS_IN_A_TERMINAL, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def _interrupted_before_a_checkpoint(arguments, folder, after):
    """Interrupt `after` seconds from the first trace of a run in the folder."""
    process = _training(arguments)
    deadline = time.monotonic() + 240
    while not list(folder.glob(".model.lock")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.count("interrupted.") == 1 and "Traceback" not in errors
    assert list(folder.glob("*model*")) == [], "nothing half-made is left"


def test_ctrl_c_before_the_first_checkpoint_leaves_nothing(classifier, tmp_path):
    arguments = classifier(tmp_path / "model", "--checkpoint-every", "999999")
    _interrupted_before_a_checkpoint(arguments, tmp_path, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(12))
def test_ctrl_c_at_any_moment_before_it_leaves_nothing(classifier, tmp_path, moment):
    more = ("--peak-rate", "1e-4", "--checkpoint-every", "999999")
    arguments = classifier(tmp_path / "model", *more, steps=1_000_000)
    _interrupted_before_a_checkpoint(arguments, tmp_path, 0.4 * moment)


def test_ctrl_c_keeps_the_last_checkpoint(classifier, tmp_path):
    out = tmp_path / "model"
    process = _training(classifier(out, "--peak-rate", "1e-4", steps=1_000_000))
    checkpoint = tmp_path / "model.unfinished" / "checkpoint"
    deadline = time.monotonic() + 240
    while not (
        checkpoint.is_dir() and any(p.name.isdigit() for p in checkpoint.iterdir())
    ):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "is kept; go on with the same command and --resume" in errors
    assert "Traceback" not in errors
    assert not out.exists()
    assert any(p.name.isdigit() for p in checkpoint.iterdir())


def test_a_prior_is_trained_and_restored(data_file, tmp_path, capsys):
    out = tmp_path / "prior"
    arguments = [
        "train", "prior", "--data", str(data_file), "--out", str(out), "--json",
        "--num-steps", "3", "--batch-size", "4", "--warmup", "0", "--widths", "8",
        "--blocks", "1", "--schedule", "constant", "--dtype", "bfloat16",
    ]  # fmt: skip
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["notes"]["denoising_error"]) == {
        "0.05",
        "0.2",
        "0.5",
        "1.0",
        "5.0",
    }
    assert len(result["settings"]["data_sha256"]) == 64
    prior = NetworkPrior.restore(out)
    assert prior.shape == (12, 12, 1)
    denoised = prior.denoise(jnp.zeros(prior.shape), jnp.asarray(0.5))
    assert denoised.dtype == jnp.float32
    assert np.all(np.isfinite(denoised))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num-steps", "0"], "--num-steps is 0"),
        (["--checkpoint-every", "0"], "--checkpoint-every is 0"),
        (["--warmup", "6"], "--warmup is 6"),
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--images", "x_nothing"], "has no array"),
        (["--data", "nowhere.npz"], "no data file nowhere.npz"),
        (["--batch-size", "99"], "batch size 99"),
        (["--peak-rate", "0"], "--peak-rate is 0.0"),
        (["--peak-rate", "nan"], "--peak-rate is nan; expected a finite number > 0"),
        (["--batch-size", "0"], "--batch-size is 0; expected a whole number >= 1"),
        (["--seed", "1180591620717411303424"], "--seed is 1180591620717411303424"),
        (["--seed", "-1"], "--seed is -1; expected a whole number from 0"),
        (["--num-steps", "1000000000000"], "--num-steps is 1000000000000; expected"),
        (["--width", "0"], "--width is 0; expected a whole number from 1"),
        (["--max-shift", "-1"], "--max-shift is -1"),
    ],
)
def test_bad_settings_are_refused(classifier, tmp_path, capsys, options, message):
    assert main(classifier(tmp_path / "model", *options)) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.glob("*model*")) == [], "nothing is begun in vain"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--widths", "8", "8", "8"], "expected multiples of 8"),  # of 12 x 12 pixels
        (["--widths", "0"], "--widths[0] is 0; expected a whole number from 1"),
        (["--widths", str(10**9), "8"], "expected a whole number from 1 to 65536"),
        (["--widths", "9"], "9 channels cannot be split into 8 groups"),
        (["--blocks", "1000000"], "--blocks[0] is 1000000; expected a whole number"),
        (["--sigma-data", "inf"], "--sigma-data is inf; expected a finite number > 0"),
    ],
)
def test_networks_that_cannot_be_are_told_before_the_training(
    data_file, tmp_path, capsys, options, message
):
    blocks = ["--blocks", *["1"] * (len(options) - 1)]
    given = ["train", "prior", "--data", str(data_file), "--out", str(tmp_path / "out")]
    assert main([*given, "--batch-size", "4", *blocks, *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.zeros((4, 8, 8, 1))}, "x_train in .* is float64 of shape"),
        ({"x_train": np.zeros((4, 8, 8), np.uint8)}, r"expected uint8 images \(N, H"),
        ({"x_train": np.uint8(3)}, r"is uint8 of shape \(\)"),
        ({"x_train": np.zeros((4, 0, 8, 1), np.uint8)}, "or none with pixels"),
        ({"y_train": np.uint8(3)}, r"y_train in .* is uint8 of shape \(\)"),
        ({"y_train": np.zeros((4, 1), int)}, r"of shape \(4, 1\); expected one whole"),
        ({"y_train": np.array(["a"] * 4)}, "expected one whole number for each image"),
        ({"y_train": np.array([0, np.nan, 1, 1])}, "has the label nan at 1"),
        ({"y_train": np.array([0, 2**31 - 2, 1, 1])}, "2147483646 at 1; .* 0 to 65535"),
        ({"y_train": np.array([0, -1, 1, 1])}, "has the label -1 at 1"),
        ({"y_train": np.array([None] * 4)}, "holds Python objects"),
    ],
)
def test_data_that_is_none_is_told_before_the_training(
    tmp_path, capsys, arrays, message
):
    good = {"x_train": np.zeros((4, 8, 8, 1), np.uint8), "y_train": np.arange(4)}
    data = tmp_path / "data.npz"
    np.savez(data, **good | arrays)
    given = ["--data", str(data), "--out", str(tmp_path / "out"), "--held-out", ""]
    assert main(["train", "classifier", "--batch-size", "4", *given]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1, error


def test_a_loss_that_is_not_finite_ends_the_training(classifier, tmp_path, capsys):
    assert main(classifier(tmp_path / "model", "--peak-rate", "1e38")) == 1
    assert "smaller --peak-rate" in capsys.readouterr().err
