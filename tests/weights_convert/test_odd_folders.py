"""`export` and `verify` of folders that no converter wrote, or that were damaged."""

import re
import shutil

import numpy as np
import pytest

from tests.priors.small_models import GENERATIVE, change, save
from tests.priors.test_foreign_folders import INTERNAL
from weights_convert.cli import main

EXPORTED = ("autoencoder_kl", "digit_classifier")
# The U-Nets of other projects go there and back in the tests of their families.
FOLDERS = [*EXPORTED, "unet", *(kind.__name__ for kind in GENERATIVE)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name in FOLDERS:
        save(name, root / name)
    return root


@pytest.fixture
def copied(models, tmp_path):
    return lambda name: shutil.copytree(models / name, tmp_path / name)


def refused(words, capsys, message):
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.startswith("weights_convert: error: ") and error.count("\n") == 1
    assert len(error) < 900 and not INTERNAL.search(error), error


@pytest.mark.parametrize("name", FOLDERS)
def test_every_folder_is_exported_or_refused_by_name(models, tmp_path, capsys, name):
    words = ["export", models / name, "--out", tmp_path / "out"]
    if name in EXPORTED:
        assert main([str(word) for word in words]) == 0
        assert (tmp_path / "out").is_file()
    else:
        refused(words, capsys, "no PyTorch project has a layout for the network")
        assert not (tmp_path / "out").exists()
    wrong = "digits" if name != "digit_classifier" else "edm"
    other = ["export", models / name, "--out", tmp_path / "b", "--family", wrong]
    refused(other, capsys, "do not hold a network of the kind")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("architecture",), "x", "architecture of the model is 'x'; expected a table"),
        (("architecture",), {}, "architecture lacks the setting 'name'"),
        (("architecture", "name"), "vnet", "There is no network called 'vnet'"),
        (("architecture", "arguments"), {"groups": 2}, "lacks the setting"),
        (
            ("architecture", "arguments", "levels", 0, "blocks"),
            10**6,
            "only .* numbers",
        ),
        (("source",), {"family": []}, r"family of the source is \[\]; expected a str"),
        (("source",), {"family": "x"}, "no family 'x'; choose one of"),
        (("source",), {"attention_order": "x"}, "'x'; expected 'legacy' or 'new'"),
        (("kind",), None, "describes a None"),
        (("format",), 2, "in format 1"),
    ],
)
def test_damaged_descriptions(copied, tmp_path, capsys, path, value, message):
    folder = copied("autoencoder_kl")
    change(folder, *path, to=value)
    refused(["export", folder, "--out", tmp_path / "out"], capsys, message)
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_models(tmp_path, capsys):
    out = ["--out", tmp_path / "out"]
    refused(
        ["export", tmp_path / "nowhere", *out], capsys, r"model\.json does not exist"
    )
    (tmp_path / "empty").mkdir()
    refused(["export", tmp_path / "empty", *out], capsys, "is a folder with weights")
    for text in ("", "[]", "3", "{}", "[" * 900 + "]" * 900, "\0"):
        (tmp_path / "empty" / "model.json").write_text(text)
        refused(["export", tmp_path / "empty", *out], capsys, r"model\.json")
    (tmp_path / "file").write_text("x")
    refused(["export", tmp_path / "file", *out], capsys, "does not exist|folder was")


@pytest.fixture
def converted(copied):
    folder = copied("digit_classifier")
    change(folder, "source", to={"family": "digits"})
    return folder


def _reference(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        **{name: rng.normal(size=(2, 1, 8, 8)) for name in ("x", "tan", "vjp")},
        **{name: rng.normal(size=(2, 3)) for name in ("out", "ct", "jvp")},
        "y": np.array([0, 2]),
    } | changes
    return {name: array for name, array in arrays.items() if array is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((2, 1, 8, 9))}, "the arrays do not fit the network"),
        ({"x": np.zeros((2, 3, 8, 8))}, "the arrays do not fit the network"),
        ({"x": np.zeros((2, 8))}, "the arrays do not fit the network"),
        ({"ct": np.zeros((2, 4))}, "the arrays do not fit the network"),
        ({"vjp": np.zeros((2, 1, 4, 4))}, "the arrays do not fit the network"),
        ({"y": np.array([3])}, r"has arrays of \[1, 2\] examples"),
        ({"y": np.array(3)}, r"y is int64 of shape \(\); expected numbers"),
        ({"y": np.array(["a", "b"])}, "y is <U1 of shape"),
        ({"y": np.array([1j, 2])}, "y is complex128 of shape"),
        ({"out": None}, "holds no outputs that a network of the family digits"),
        (
            {name: array[:0] for name, array in _reference().items()},
            r"has arrays of \[0\] examples",
        ),
        ({"x": np.array([None, None])}, "x holds Python objects"),
    ],
)
def test_references_that_do_not_fit(converted, tmp_path, capsys, changes, message):
    path = tmp_path / "io.npz"
    np.savez(path, **_reference(**changes))
    refused(["verify", converted, "--reference", path], capsys, message)
    assert not (converted / "parity.json").exists()


def test_a_reference_of_another_network_differs(converted, tmp_path):
    np.savez(tmp_path / "io.npz", **_reference())
    words = ["verify", str(converted), "--reference", str(tmp_path / "io.npz")]
    assert main(words) == 1
    assert (converted / "parity.json").is_file()
