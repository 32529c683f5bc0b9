"""`diffctl reconstruct`: what it writes, what it refuses, how it goes on."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from diffctl.cli import reconstruct as module
from diffctl.cli.images import read_image
from diffctl.nets import Architecture
from diffctl.priors import NetworkPrior
from tests.cli.conftest import SIZE
from tests.report.self_contained import assert_self_contained


def _manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_it_writes_pictures_report_and_manifest(reconstruct, tmp_path, capsys):
    assert reconstruct("--json") == 0
    printed = json.loads(capsys.readouterr().out)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "manifest.json",
        "measurement.png",
        "reconstruction.png",
        "report.html",
    }
    manifest = _manifest(out)
    assert printed == {"out": str(out)} | manifest
    assert manifest["settings"]["seed"] == 0
    assert manifest["settings"]["steps"] == 3
    assert len(manifest["settings"]["image_sha256"]) == 64
    assert len(manifest["settings"]["prior_sha256"]) == 64
    assert manifest["solver"]["type"] == "DPS"
    assert manifest["calls"] == {"forwards": 3, "vjps": 3, "jvps": 0}
    assert {"diffctl", "jax", "python"} <= manifest["versions"].keys()
    assert {"misfit", "psnr", "ssim"} == manifest["scores"].keys()
    assert manifest["timings"]["running_seconds"] > 0
    assert manifest["key"] == [0, 0]
    assert read_image(out / "reconstruction.png").shape == (SIZE, SIZE, 1)
    hole = read_image(out / "measurement.png")[SIZE // 2, SIZE // 2]
    assert abs(hole[0]) < 0.01, "the dropped box is mid-grey"
    assert_self_contained((out / "report.html").read_text())
    # Not overwritten unless asked for, and then the same result.
    assert reconstruct() == 2
    assert "--overwrite" in capsys.readouterr().err
    assert _manifest(out) == manifest
    assert reconstruct("--overwrite") == 0
    assert _manifest(out)["scores"] == manifest["scores"]


@pytest.mark.parametrize(
    ("solver", "used", "forwards"),
    [("tv_admm", "TotalVariation", 0), ("pnp_admm", "DenoiserProx", 3)],
)
def test_a_solver_gets_the_kind_of_prior_it_takes(
    reconstruct, tmp_path, solver, used, forwards
):
    assert reconstruct(solver=solver) == 0
    manifest = _manifest(tmp_path / "out")
    assert manifest["regulariser"]["type"] == used
    assert manifest["calls"]["forwards"] == forwards


def test_an_interrupted_solve_goes_on_to_the_same_picture(
    reconstruct, tmp_path, monkeypatch, capsys
):
    assert reconstruct() == 0
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    save, saved = module.Unfinished.save, []

    def save_then_interrupt(self, state):
        save(self, state)
        saved.append(int(state.step))
        if len(saved) == 2:
            raise KeyboardInterrupt

    second = str(tmp_path / "second")
    monkeypatch.setattr(module.Unfinished, "save", save_then_interrupt)
    assert reconstruct(out=second) == 130
    assert not (tmp_path / "second").exists()
    assert reconstruct(out=second) == 2
    assert "--resume" in capsys.readouterr().err
    assert reconstruct("--resume", out=second) == 0
    assert saved == [1, 2, 3]
    pictures = [tmp_path / name / "reconstruction.png" for name in ("out", "second")]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert not (tmp_path / "second.unfinished").exists()


def test_a_measurement_is_reconstructed(reconstruct, tmp_path, capsys):
    small = tmp_path / "small.png"
    Image.fromarray(np.full((3, 3), 128, np.uint8)).save(small)
    task = "super_resolution_x4"
    assert reconstruct("--measured", "--json", task=task, image=str(small)) == 0
    assert json.loads(capsys.readouterr().out)["scores"].keys() == {"misfit"}
    assert reconstruct("--measured", task=task, out=str(tmp_path / "other")) == 2
    assert "resize it to 3x3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "box_inpaint"}, "did you mean 'box_inpainting'"),
        ({"solver": "dps_papr"}, "did you mean 'dps_paper'"),
        ({"steps": "0"}, "--steps is 0; expected a whole number from 1 to"),
        ({"noise_std": "-1"}, "--noise-std is -1.0; expected a finite number >= 0"),
        ({"noise_std": "nan"}, "--noise-std is nan; expected a finite number"),
        ({"seed": "1180591620717411303424"}, "--seed is .*; .* to 4294967295"),
        ({"seed": "-1"}, "--seed is -1; expected a whole number from 0"),
        ({"label": "-1"}, "--label is -1; expected a whole number >= 0"),
        ({"image": None}, "takes --image"),
        ({"image": "nowhere.png"}, "no image nowhere.png"),
        ({"prior": "nowhere"}, "diffctl train"),
        ({"label": "3"}, "no --label"),
        ({"task": "class_guidance", "image": None, "label": "12"}, "a digit, 0 to 9"),
        ({"task": "class_guidance", "image": None}, "takes --label"),
        ({"task": "class_guidance", "image": None, "label": "3"}, r"\(28, 28, 1\)"),
        ({"task": "class_guidance", "solver": "doc_paper"}, "takes --label"),
    ],
)
def test_bad_input_is_one_clear_line(reconstruct, tmp_path, capfd, options, message):
    assert reconstruct(**options) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("diffctl: error: ")
    assert re.search(message, lines[0]), lines[0]
    assert not (tmp_path / "out").exists()


def test_a_solver_that_cannot_is_answered_with_those_that_can(
    reconstruct, tmp_path, capfd
):
    """By the names of --solver, before anything is computed or kept on disk."""
    assert reconstruct(task="motion_deblurring", solver="ddrm") == 2
    message = capfd.readouterr().err
    assert "DDRM needs a SpectralOperator as operator; Blur is not one." in message
    named = re.search(r"The nearest that can is (\w+); so can ([\w, ]+) and", message)
    assert named is not None, message
    able = [named[1], *named[2].split(", ")]
    assert len(able) == 5
    assert list(tmp_path.iterdir()) == []
    assert reconstruct(task="motion_deblurring", solver=able[0], steps="2") == 0


def test_wrong_pictures_are_refused(reconstruct, tmp_path, capsys):
    colour = tmp_path / "colour.png"
    Image.new("RGB", (20, SIZE)).save(colour)
    assert reconstruct(image=str(colour)) == 2
    assert (
        f"convert it to grey and resize it to {SIZE}x{SIZE}" in capsys.readouterr().err
    )


@pytest.fixture
def conditional_prior(tmp_path):
    level = {"width": 32, "blocks": 1}
    architecture = Architecture.of(
        "adm_unet", channels=[1, 1], width=32, levels=[level], classes=3
    )
    prior = NetworkPrior.create(architecture, (SIZE, SIZE, 1), key=jax.random.key(0))
    leaves, structure = jax.tree.flatten(prior.net)
    rng = np.random.default_rng(0)
    drawn = [0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    net = jax.tree.unflatten(structure, drawn)
    dataclasses.replace(prior, net=net).save(tmp_path / "conditional")
    return str(tmp_path / "conditional")


def test_a_label_conditions_a_prior_with_classes(
    reconstruct, conditional_prior, tmp_path, capsys
):
    misfits = []
    for label in ("0", "2"):
        options = {"label": label, "prior": conditional_prior, "steps": "2"}
        assert reconstruct("--overwrite", **options) == 0
        manifest = _manifest(tmp_path / "out")
        assert manifest["settings"]["label"] == int(label)
        misfits.append(manifest["scores"]["misfit"])
    assert misfits[0] != misfits[1]
    for wrong, message in [(None, "0 to 2"), ("3", "3 is none of them")]:
        out = str(tmp_path / "other")
        assert reconstruct(prior=conditional_prior, label=wrong, out=out) == 2
        assert message in capsys.readouterr().err


def test_a_truncated_prior_is_refused(reconstruct, prior_folder, tmp_path, capsys):
    broken = tmp_path / "prior"
    broken.mkdir()
    for path in prior_folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = broken / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert reconstruct(prior=str(broken)) == 2
    assert "truncated" in capsys.readouterr().err


def test_an_unknown_mask_of_a_measurement_is_refused(reconstruct, capsys):
    assert reconstruct("--measured", task="random_inpainting") == 2
    assert "not known" in capsys.readouterr().err
