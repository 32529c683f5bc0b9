"""The experiment with trained models, tiny and from end to end."""

import json

import numpy as np

from experiments.generative.__main__ import main


def test_train_restore_and_render(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(8, 28, 28, 1)).astype(np.uint8)
    data, out = tmp_path / "data.npz", tmp_path / "run"
    np.savez(data, x_train=images, x_test=images[:2], y_test=np.zeros(2, np.uint8))
    options = ["--data", str(data), "--out", str(out), "--models", "regression"]
    small = ["--num-steps", "2", "--batch-size", "4", "--count", "2"]
    assert main([*options, *small]) == 0
    assert (out / "models" / "regression.super_resolution_x4" / "model.json").is_file()
    (summary,) = json.loads((out / "table.json").read_text())
    assert summary["solver"] == "amortised_mean"
    assert summary["images"] == 2
    (before,) = (out / "results").glob("*/*.json")
    written = before.stat().st_mtime_ns
    assert main([*options, *small]) == 0, "nothing is left to do"
    assert before.stat().st_mtime_ns == written
    assert main([*options, "--task", "random_inpainting", *small]) == 2
    assert "draws an operator" in capsys.readouterr().err
