"""What `train` leaves, deletes and refuses: files of users, links, full disks."""

import json
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from diffctl.cli import recipes
from diffctl.cli import train as module
from diffctl.cli.main import main
from diffctl.host import claimed
from tests.cli.conftest import SIZE
from tests.source import ROOT


def _names(folder):
    return {path.name for path in folder.iterdir()}


def _weights(folder):
    return (folder / "weights.safetensors").read_bytes()


@pytest.fixture
def during(monkeypatch):
    """Do something once, after a training's last step and before it is published."""

    def arrange(act):
        real = module._publish

        def publish(*args):
            act()
            real(*args)

        monkeypatch.setattr(module, "_publish", publish)

    return arrange


def test_a_users_files_are_not_deleted(classifier, tmp_path, during, capsys):
    out = tmp_path / "model"

    def put():
        out.mkdir(exist_ok=True)
        (out / "notes.txt").write_text("mine")

    during(put)
    assert main(classifier(out)) == 2
    assert "model.finished" in capsys.readouterr().err
    assert _names(out) == {"notes.txt"}
    assert "weights.safetensors" in _names(tmp_path / "model.finished")
    assert _names(tmp_path) == {"model", "model.finished"}
    (tmp_path / "model.finished").rename(tmp_path / "other")
    out = tmp_path / "other"
    assert main(classifier(out, "--overwrite")) == 0
    assert "model.json" in _names(out) and "notes.txt" not in _names(out)
    assert (tmp_path / "other.replaced" / "notes.txt").read_text() == "mine"
    assert "notes.txt" in capsys.readouterr().err


def test_a_link_is_followed(classifier, tmp_path):
    link, real = tmp_path / "link", tmp_path / "real"
    link.symlink_to(real)
    assert main(classifier(link)) == 0
    assert main(classifier(link, "--overwrite")) == 0
    assert link.is_symlink() and "model.json" in _names(real)
    assert _names(tmp_path) == {"link", "real"}


def test_two_trainings_of_one_model_do_not_meet(classifier, tmp_path, capsys):
    out = tmp_path / "model"
    with claimed(out, overwrite=False):
        assert main(classifier(out)) == 2
    assert f"another run, process {os.getpid()}" in capsys.readouterr().err
    (tmp_path / ".model.lock").write_text("4194305\n")
    assert main(classifier(out)) == 0
    assert "took over the lock of process 4194305" in capsys.readouterr().err
    assert _names(tmp_path) == {"model"}


@pytest.mark.parametrize("name", ["a[/b]", "[bold]", "x :smile: {y}", "spaced  out"])
def test_paths_are_printed_as_they_are(classifier, tmp_path, capsys, name):
    assert main(classifier(tmp_path / name)) == 0
    assert f"Wrote {tmp_path / name}" in capsys.readouterr().out


def test_a_stale_checkpoint_is_not_continued(classifier, tmp_path, monkeypatch):
    """As an interrupted removal left it: a checkpoint that no settings belong to."""
    fresh, out = tmp_path / "fresh", tmp_path / "model"
    assert main(classifier(fresh, "--seed", "9")) == 0
    with monkeypatch.context() as patch:
        patch.setattr(module, "_publish", lambda *args: 1 / 0)
        assert main(classifier(out)) == 1
    stale = tmp_path / "model.unfinished"
    assert _names(stale) == {"checkpoint", "settings.json"}
    assert main(classifier(out, "--seed", "9")) == 2
    assert main(classifier(out, "--seed", "9", "--resume")) == 2
    (stale / "settings.json").unlink()
    assert main(classifier(out, "--seed", "9")) == 0
    assert _weights(out) == _weights(fresh)
    assert _names(tmp_path) == {"fresh", "model"}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_test": np.zeros((0, SIZE, SIZE, 1), np.uint8)}, "holds no images"),
        ({"x_test": np.zeros((2, 8, 8, 1), np.uint8)}, r"of shape (8, 8, 1)"),
        ({"x_test": np.zeros((2, SIZE, SIZE, 1))}, "expected uint8"),
        ({"y_test": np.zeros(1)}, "2 images but 1 labels"),
        ({"y_test": np.array([0.5, 0])}, "y_test in "),
        ({"y_test": np.array([0, 3])}, "y_test has the label 3, but the classes of"),
        ({}, "has no array ['x_test'"),
    ],
)
def test_bad_test_images_are_told_before_the_training(
    classifier, data_file, tmp_path, monkeypatch, capsys, arrays, message
):
    with np.load(data_file) as archive:
        data = {name: archive[name] for name in ("x_train", "y_train")}
    test = {"x_test": np.zeros((2, SIZE, SIZE, 1), np.uint8), "y_test": np.zeros(2)}
    if "x_test" in arrays:
        test["y_test"] = np.zeros(len(arrays["x_test"]))
    np.savez(tmp_path / "data.npz", **data, **(test | arrays if arrays else {}))
    monkeypatch.setattr(module, "train", pytest.fail)
    options = ("--data", str(tmp_path / "data.npz"), "--json")
    assert main(classifier(tmp_path / "model", *options)) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "--held-out" in captured.err
    assert message in json.loads(captured.out)["error"]
    assert _names(tmp_path) == {"data.npz"}


def test_results_that_are_not_finite_are_null(
    classifier, tmp_path, monkeypatch, capsys
):
    nothing = lambda *_: float("nan")  # noqa: E731
    monkeypatch.setattr(recipes, "classification_accuracy", nothing)
    assert main(classifier(tmp_path / "model", "--json")) == 0
    texts = [capsys.readouterr().out]
    texts += [(tmp_path / "model" / "training.json").read_text()]
    texts += [(tmp_path / "model" / "model.json").read_text()]
    for text in texts:
        assert json.loads(text, parse_constant=pytest.fail)["notes"]["accuracy"] is None


@pytest.mark.parametrize("name", [".", "..", "file", "file/model", "x" * 250])
def test_places_are_refused_before_the_training(
    classifier, tmp_path, monkeypatch, capsys, name
):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "train", pytest.fail)
    assert main(classifier(name)) == 2
    assert "hoose" in capsys.readouterr().err
    assert _names(tmp_path) == {"file"}


def test_a_disk_that_fills_up_is_told_and_the_checkpoint_kept(
    classifier, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "model"
    real = module._publish

    def publish(*args):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        try:
            real(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_publish", publish)
        assert main(classifier(out)) == 2
    error = capsys.readouterr().err
    assert "weights.safetensors cannot be written" in error
    assert "Free some space" in error and "--resume" in error
    assert _names(tmp_path) == {"model.unfinished"}
    assert main(classifier(out, "--resume")) == 0
    assert main(classifier(tmp_path / "whole")) == 0
    assert _weights(out) == _weights(tmp_path / "whole")


# A process for each step at which the removal may be killed.
_KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from diffctl import checkpoint
from diffctl.cli.unfinished import Unfinished
from diffctl.host import claimed

calls = 0
def counted(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == last:
            os._exit(9)
        return function(*args, **kwargs)
    return call

for last in range(1, 100):
    out = Path(sys.argv[1]) / str(last) / "out"
    checkpoint_folder = out.with_name("out.unfinished") / "checkpoint" / "3"
    (checkpoint_folder / "d").mkdir(parents=True)
    for name in ("_METADATA", "manifest.ocdbt", "d/0", "d/1", "d/2"):
        (checkpoint_folder / name).write_text("state")
    (out.with_name("out.unfinished") / "settings.json").write_text('{"seed": 1}')
    child = os.fork()
    if not child:
        with claimed(out, overwrite=False) as place:
            run = Unfinished(place, {"seed": 1}, resumed=True)
            for name in ("rename", "unlink", "rmdir", "mkdir", "open", "remove"):
                setattr(os, name, counted(getattr(os, name)))
            run.remove()
        os._exit(0)
    if not os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        break
print(last)
"""


def test_killed_at_any_step_of_the_removal_no_other_run_goes_on(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    steps = int(done.stdout)
    assert steps > 8
    for last in range(1, steps + 1):
        folder = tmp_path / str(last)
        files = {path.name for path in (folder / "out.unfinished").rglob("*")}
        complete = {"settings.json", "checkpoint", "3", "d", "0", "1", "2"}
        complete |= {"_METADATA", "manifest.ocdbt"}
        assert files in (set(), complete), "all of it, or nothing of that name"
        said: list[str] = []
        with claimed(folder / "out", overwrite=False, say=said.append) as place:
            if files:
                with pytest.raises(FileExistsError, match="--resume"):
                    module.Unfinished.open(place, {"seed": 9}, resume=False).__enter__()
                continue
            with module.Unfinished.open(place, {"seed": 9}, resume=False) as run:
                assert run.restore(np.zeros(3)) is None
        assert _names(folder) == set()
