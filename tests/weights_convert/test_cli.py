"""The command line, from a checkpoint to a verified folder and back."""

import json
import resource
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from diffctl.nets import Architecture
from diffctl.priors.network import NetworkPrior
from tests.source import ROOT
from tests.weights_convert.fixture_networks import FOLDERS, files, meta
from weights_convert import cli
from weights_convert.cli import main

# The smallest network, whose comparison takes a second.
FOLDER = min(FOLDERS, key=lambda folder: files(folder)[0].stat().st_size)
FILE, CONFIG = str(files(FOLDER)[0]), str(FOLDER / meta(FOLDER)["config"])
REFERENCE = str(FOLDER / "io.npz")


@pytest.fixture
def converted(tmp_path):
    assert main([FILE, "--config", CONFIG, "--out", str(tmp_path / "net")]) == 0
    return tmp_path / "net"


def test_one_command_converts_and_proves(tmp_path, capsys):
    out = tmp_path / "net"
    code = main([FILE, "--config", CONFIG, "--out", str(out), "--reference", REFERENCE])
    assert code == 0
    parity = json.loads((out / "parity.json").read_text())
    assert parity["passed"] and parity["reference"] == "io.npz"
    assert {"out", "vjp", "jvp"} <= {row["quantity"] for row in parity["comparisons"]}
    assert all(row["relative"] <= row["limit"] for row in parity["comparisons"])
    assert "differs" not in capsys.readouterr().out


def test_a_network_that_differs_is_told(converted, tmp_path, capsys):
    arrays = dict(np.load(REFERENCE))
    outputs = {k: v * 1.01 for k, v in arrays.items() if k.startswith("out")}
    np.savez(tmp_path / "other.npz", **arrays | outputs)
    code = main(["verify", str(converted), "--reference", str(tmp_path / "other.npz")])
    assert code == 1
    assert "differs" in capsys.readouterr().out
    assert not json.loads((converted / "parity.json").read_text())["passed"]


def test_folders_of_unknown_origin_are_not_verified(converted, capsys):
    path = converted / "model.json"
    description = json.loads(path.read_text())
    for source in (None, {"family": "strange"}, "a file"):
        path.write_text(json.dumps(description | {"source": source}))
        assert main(["verify", str(converted), "--reference", REFERENCE]) == 2
        assert "was not written by this converter" in capsys.readouterr().err


def test_dry_run_and_inspect_write_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([FILE, "--config", CONFIG, "--dry-run"]) == 0
    assert "transpose" in capsys.readouterr().out
    assert main(["inspect", FILE]) == 0
    assert f"numbers: {meta(FOLDER)['num_parameters']:,}" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_export_gives_the_tensors_back(converted, tmp_path):
    out = tmp_path / "back.safetensors"
    assert main(["export", str(converted), "--out", str(out)]) == 0
    again = ["--config", CONFIG, "--out", str(tmp_path / "again")]
    assert main([str(out), *again]) == 0
    first = load_file(converted / "weights.safetensors")
    second = load_file(tmp_path / "again" / "weights.safetensors")
    assert set(first) == set(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_networks_made_here_can_be_exported(tmp_path):
    """A prior that was never converted: written by `save`, named by the project."""
    level = {"width": 32, "blocks": 1}
    architecture = Architecture.of(
        "adm_unet", channels=[1, 1], width=32, levels=[level], middle_heads=2
    )
    prior = NetworkPrior.create(architecture, (8, 8, 1), key=jax.random.key(0))
    prior.save(tmp_path / "prior")
    out = tmp_path / "net.safetensors"
    assert main(["export", str(tmp_path / "prior"), "--out", str(out)]) == 0
    config = tmp_path / "config.json"
    config.write_text('{"image_size": 8, "num_heads": 2}')
    arguments = [str(out), "--config", str(config), "--out", str(tmp_path / "again")]
    assert main(arguments) == 0
    again = NetworkPrior.restore(tmp_path / "again")
    assert again.shape == prior.shape
    for left, right in zip(
        jax.tree.leaves(again.net), jax.tree.leaves(prior.net), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt", "--out", "x"], "nowhere.pt is no file"),
        ([FILE, "--config", CONFIG], "--out FOLDER is needed"),
        ([FILE, "--config", "ffqh", "--out", "x"], "neither a file nor a built-in"),
        ([FILE, "--config", CONFIG, "--family", "x", "--out", "x"], "no family 'x'"),
        ([REFERENCE, "--out", "x"], "error"),
        (["verify", "nowhere", "--reference", REFERENCE], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_module_runs():
    command = [sys.executable, "-m", "weights_convert", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--config" in done.stdout


def test_what_is_wrong_is_told_before_the_conversion(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no archive")
    monkeypatch.setattr(cli, "write", pytest.fail)
    ours = [FILE, "--config", CONFIG]
    for wrong, message in [
        (["--out", "net", "--reference", "file"], "file is no .npz"),
        (["--out", "."], "the folder you are in"),
        (["--out", "file"], "file exists"),
        (["--out", "file/net", "--overwrite"], "file is a file where a folder"),
    ]:
        assert main([*ours, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", ["convert", "export"])
def test_a_full_disk_is_told_and_leaves_nothing(converted, tmp_path, capsys, command):
    before = sorted(tmp_path.rglob("*"))
    arguments = {
        "convert": [FILE, "--config", CONFIG, "--out", str(tmp_path / "again")],
        "export": ["export", str(converted), "--out", str(tmp_path / "again")],
    }[command]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        assert main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert f"{tmp_path / 'again'}: File too large" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_paths_that_look_like_markup_are_printed_as_they_are(tmp_path, capsys):
    out = tmp_path / "a[/b] :smile:"
    arguments = [FILE, "--config", CONFIG, "--out", str(out), "--reference", REFERENCE]
    assert main(arguments) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    back = tmp_path / "c[/d]"
    assert main(["export", str(out), "--out", str(back)]) == 0
    assert f"wrote {back}" in capsys.readouterr().out


def test_a_comparison_that_is_not_finite_is_null(converted, tmp_path):
    arrays = dict(np.load(REFERENCE))
    outputs = {k: v * np.nan for k, v in arrays.items() if k.startswith("out")}
    np.savez(tmp_path / "other.npz", **arrays | outputs)
    other = ["--reference", str(tmp_path / "other.npz")]
    assert main(["verify", str(converted), *other]) == 1
    text = (converted / "parity.json").read_text()
    rows = json.loads(text, parse_constant=pytest.fail)["comparisons"]
    assert any(row["relative"] is None and not row["passed"] for row in rows)
