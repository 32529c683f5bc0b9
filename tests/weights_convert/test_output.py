"""What is written: files that restore, complete or not at all, and the way back."""

import json
from pathlib import Path

import chex
import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffctl.core import LearnedVariancePrior
from diffctl.priors.network import NetworkPrior
from diffctl.priors.storage import read_description, read_model
from tests.weights_convert.fixture_networks import (
    FOLDERS,
    conversion,
    files,
    ids,
    settings,
)
from weights_convert import export
from weights_convert.convert import build, prepare
from weights_convert.families import FAMILIES
from weights_convert.families.base import PRIOR, ConfigError
from weights_convert.inputs import locate
from weights_convert.output import sha256, write
from weights_convert.readers import open_checkpoint

every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=ids(FOLDERS))


def _smallest():
    """Return the folder with the smallest checkpoint."""
    return min(FOLDERS, key=lambda folder: files(folder)[0].stat().st_size)


def _assert_same(found, expected):
    """Compare values and dtypes of two networks."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for left, right in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@every_folder
def test_what_is_written_is_restored(folder, tmp_path):
    file = files(folder)[0]
    converted = conversion(folder, file)
    description = write(converted, tmp_path / "net", source=file)
    net, found = read_model(tmp_path / "net", kind=converted.plan.kind)
    _assert_same(net, build(converted))
    assert found == {"format": 1} | json.loads(json.dumps(description))
    assert found["source"]["sha256"] == sha256(file)
    if converted.plan.kind != PRIOR:
        return
    prior = NetworkPrior.restore(tmp_path / "net")
    _assert_same(prior.net, build(converted))
    learned = found.get("variance") == "learned"
    assert isinstance(prior, LearnedVariancePrior) == learned
    # Saving the restored prior loses nothing that it uses.
    prior.save(tmp_path / "again")
    chex.assert_trees_all_equal(NetworkPrior.restore(tmp_path / "again"), prior)


@every_folder
def test_exporting_gives_the_file_back(folder, tmp_path):
    """Bit by bit, by the same names; and converting it again the same network."""
    file = files(folder)[0]
    converted = conversion(folder, file)
    net = build(converted)
    arrays = export.tensors(
        net, converted.plan.architecture, converted.family, converted.plan.order
    )
    original = converted.tensors
    assert set(arrays) == set(original)
    for name, array in arrays.items():
        assert array.dtype == original[name].dtype
        np.testing.assert_array_equal(array, original[name].read(), err_msg=name)
    export.write(tmp_path / "back.safetensors", arrays)
    tensors = open_checkpoint(tmp_path / "back.safetensors").tensors
    again = prepare(tensors, settings(folder, file), converted.family.name)
    _assert_same(build(again), net)


def test_networks_without_a_layout_are_not_exported():
    converted = conversion(_smallest(), files(_smallest())[0])
    (other,) = (f for f in FAMILIES.values() if f.name == "ddpm")
    with pytest.raises(ConfigError, match="family ddpm do not hold a network of the"):
        export.tensors(build(converted), converted.plan.architecture, other)


@pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16])
def test_parameters_can_be_cast(tmp_path, dtype):
    file = files(_smallest())[0]
    converted = conversion(_smallest(), file)
    write(converted, tmp_path / "half", source=file, dtype=dtype)
    net, description = read_model(tmp_path / "half", kind=converted.plan.kind)
    assert description["dtype"] == str(np.dtype(dtype))
    expected = jax.tree.map(lambda leaf: leaf.astype(dtype), build(converted))
    _assert_same(net, expected)


def test_orbax_instead_of_safetensors(tmp_path):
    file = files(_smallest())[0]
    converted = conversion(_smallest(), file)
    write(converted, tmp_path / "net", source=file, orbax=True)
    names = {path.name for path in (tmp_path / "net").iterdir()}
    assert names == {"model.json", "weights.orbax"}
    net, _ = read_model(tmp_path / "net", kind=converted.plan.kind)
    _assert_same(net, build(converted))


def test_every_shard_is_recorded(tmp_path):
    file = files(_smallest())[0]
    arrays = {n: t.read() for n, t in conversion(_smallest(), file).tensors.items()}
    names = sorted(arrays)
    parts = {"1.safetensors": names[:2], "2.safetensors": names[2:]}
    for name, part in parts.items():
        save_file({key: arrays[key] for key in part}, tmp_path / name)
    places = {key: name for name, part in parts.items() for key in part}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    converted = conversion(_smallest(), index)
    source = write(converted, tmp_path / "net", source=index)["source"]
    assert source["sha256"] == sha256(index)
    expected = {name: sha256(tmp_path / name) for name in parts}
    assert source["shards_sha256"] == expected
    other = write(conversion(_smallest(), file), tmp_path / "other", source=file)
    assert other["source"]["shards_sha256"] == {}


def test_the_file_is_an_ordinary_safetensors_file(tmp_path):
    file = files(_smallest())[0]
    converted = conversion(_smallest(), file)
    written = []
    write(converted, tmp_path / "net", source=file, progress=written.append)
    arrays = load_file(tmp_path / "net" / "weights.safetensors")
    assert set(arrays) == set(converted.leaves)
    assert sum(written) == sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_conversion_leaves_nothing(tmp_path, overwrite):
    file = files(_smallest())[0]
    converted = conversion(_smallest(), file)
    if overwrite:
        write(converted, tmp_path / "net", source=file)
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def interrupt(written):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(
            converted,
            tmp_path / "net",
            source=file,
            overwrite=overwrite,
            progress=interrupt,
        )
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_folders_are_not_overwritten_by_accident(tmp_path):
    file = files(_smallest())[0]
    converted = conversion(_smallest(), file)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("irreplaceable")
    with pytest.raises(FileExistsError, match="exists"):
        write(converted, tmp_path / "photos", source=file)
    with pytest.raises(FileExistsError, match="not a model"):
        write(converted, tmp_path / "photos", source=file, overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").is_file()
    write(converted, tmp_path / "net", source=file)
    write(converted, tmp_path / "net", source=file, dtype="float16", overwrite=True)
    assert read_description(tmp_path / "net")["dtype"] == "float16"


def test_files_and_settings_are_found(tmp_path):
    folder = tmp_path / "pipeline"
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    (folder / "unet" / "config.json").write_text('{"sample_size": 8}')
    scheduler = {"beta_schedule": "linear"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    found = locate(folder)
    assert found.file == folder / "unet" / "diffusion_pytorch_model.bin"
    assert found.config == {"sample_size": 8, "scheduler": scheduler}
    known = locate(found.file, "ffhq")
    assert known.family == "guided-diffusion" and known.config["image_size"] == 256

    with pytest.raises(FileNotFoundError, match="no folder with weights"):
        locate(tmp_path)
    with pytest.raises(ConfigError, match=r"neither a file nor .* ffhq"):
        locate(found.file, "ffqh")
    bad = Path(tmp_path / "bad.json")
    for text in ("{", "[1]", "[" * 100_000):
        bad.write_text(text)
        with pytest.raises(ConfigError, match=r"bad\.json"):
            locate(found.file, str(bad))
