"""The network prior: preconditioning by formula, and files that are good or bad."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffctl.core import DiffusionPrior
from diffctl.diffusion.betas import Betas
from diffctl.nets import Architecture
from diffctl.priors.network import NetworkPrior
from diffctl.priors.preconditioning import EDMPreconditioning, NoisePrediction
from tests.tolerances import EXACT32

TINY = {
    "channels": 1, "widths": [4, 8], "blocks": [1, 1], "embedding": 8, "groups": 2,
}  # fmt: skip
SHAPE = (8, 8, 1)


def _prior(**fields):
    architecture = Architecture.of("unet", **TINY)
    leaves, structure = jax.tree.flatten(architecture.abstract())
    rng = np.random.default_rng(0)
    values = [jnp.asarray(0.3 * rng.normal(size=leaf.shape)) for leaf in leaves]
    settings = {
        "net": jax.tree.unflatten(structure, values),
        "preconditioning": EDMPreconditioning(sigma_data=0.6),
        "architecture": architecture,
        "shape": SHAPE,
    }
    return NetworkPrior(**settings | fields)


@pytest.fixture
def saved(tmp_path):
    _prior().save(tmp_path / "prior", notes={"data": "random numbers"})
    return tmp_path / "prior"


@jax.jit
def _denoise(prior, x, sigma):
    return prior.denoise(x, sigma)


def _x():
    return jnp.asarray(np.random.default_rng(1).normal(size=SHAPE))


def test_preconditioning_is_table_1_of_edm():
    """With F the raw network: D = c_skip x + c_out F(c_in x; ln(sigma) / 4)."""
    prior, sigma, data = _prior(), 0.8, 0.6
    total = sigma**2 + data**2
    raw = jax.jit(lambda net, x, label: net(x, label))(
        prior.net, _x() / np.sqrt(total), jnp.float32(np.log(sigma) / 4)
    )
    expected = data**2 / total * _x() + sigma * data / np.sqrt(total) * raw
    chex.assert_trees_all_close(_denoise(prior, _x(), sigma), expected, **EXACT32)
    assert isinstance(prior, DiffusionPrior)


def test_a_round_trip_is_exact_and_does_not_retrace(saved):
    prior, restored = _prior(), NetworkPrior.restore(saved)
    assert jax.tree.structure(restored) == jax.tree.structure(prior)
    chex.assert_trees_all_equal(restored, prior)
    traced = chex.assert_max_traces(NetworkPrior.denoise, n=1)
    denoise = jax.jit(traced)
    first = denoise(prior, _x(), 0.8)
    chex.assert_trees_all_equal(denoise(restored, _x(), 0.8), first)
    half = NetworkPrior.restore(saved, dtype=jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    assert sorted(path.name for path in saved.iterdir()) == [
        "model.json", "weights.safetensors",
    ]  # fmt: skip
    assert json.loads((saved / "model.json").read_text())["notes"] == {
        "data": "random numbers"
    }


def test_create_draws_by_key():
    same, again, other = (
        NetworkPrior.create(
            Architecture.of("unet", **TINY), SHAPE, key=jax.random.key(k)
        )
        for k in (0, 0, 1)
    )
    chex.assert_trees_all_equal(same, again)
    assert not jnp.array_equal(same.net.stem.kernel[...], other.net.stem.kernel[...])
    # A fresh network returns zero, which leaves the skip.
    chex.assert_trees_all_close(_denoise(same, _x(), 0.5), _x() / 2, **EXACT32)


def test_nothing_is_overwritten_by_accident(saved, tmp_path):
    changed = dataclasses.replace(_prior(), sigma_max=40.0)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        changed.save(saved)
    assert NetworkPrior.restore(saved).sigma_max == 80.0
    changed.save(saved, overwrite=True)
    assert NetworkPrior.restore(saved).sigma_max == 40.0

    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_text("irreplaceable")
    with pytest.raises(FileExistsError, match="not a model"):
        changed.save(foreign, overwrite=True)
    assert (foreign / "cat.jpg").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "prior"]


def test_a_save_that_fails_leaves_the_earlier_one(saved, monkeypatch):
    def full_disk(*_):
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.numpy.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        dataclasses.replace(_prior(), sigma_max=40.0).save(saved, overwrite=True)
    assert NetworkPrior.restore(saved).sigma_max == 80.0
    assert [path.name for path in saved.parent.iterdir()] == ["prior"]


def test_missing_files_are_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/model\.json does not exist"):
        NetworkPrior.restore(tmp_path / "nowhere")
    (saved / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors does not exist"):
        NetworkPrior.restore(saved)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_refused(saved, keep):
    weights = saved / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        NetworkPrior.restore(saved)


def test_tensors_that_do_not_fit_are_named(saved):
    path = saved / "weights.safetensors"
    weights = load_file(path)
    assert "stem.kernel" in weights, sorted(weights)[:5]
    missing = {name: value for name, value in weights.items() if name != "stem.bias"}
    save_file(missing | {"extra": np.zeros(1, np.float32)}, path)
    with pytest.raises(ValueError, match=r"missing \['stem.bias'\], unknown \['extra'"):
        NetworkPrior.restore(saved)
    save_file(weights | {"stem.bias": np.zeros(5, np.float32)}, path)
    with pytest.raises(ValueError, match=r"stem.bias has shape \(5,\).*needs \(4,\)"):
        NetworkPrior.restore(saved)


def _set(*path_and_value):
    *path, value = path_and_value

    def change(description):
        inner = description
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value

    return change


def _remove(name):
    return lambda description: description.pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("kind", "classifier"), "describes a 'classifier', expected a 'diff"),
        (_set("format", 99), "in format 1"),
        (_remove("architecture"), "lacks the setting 'architecture'"),
        (_set("architecture", "name", "vnet"), "no network called 'vnet'"),
        (
            _set("architecture", "arguments", "depth", 3),
            "unet has no setting 'depth'; there are: channels, widths",
        ),
        (_set("architecture", "arguments", "groups", 3), "cannot be split into 3"),
        (_set("preconditioning", "name", "vq"), "'vq'"),
        (_set("preconditioning", "speed", 1.0), "speed"),
        (_remove("sigma_min"), "sigma_min"),
        (_set("variance", []), r"variance .* is \[\]; expected 'fixed' or 'learned'"),
        (
            _set("preconditioning", "x"),
            r"model\.json: the preconditioning is 'x'; .*table",
        ),
        (_set("preconditioning", None), "preconditioning is None"),
        (_set("preconditioning", "name", []), r"name of .* is \[\]; expected a string"),
        (_set("preconditioning", "sigma_data", "x"), "sigma_data of .* is 'x'"),
        (_set("preconditioning", "betas", "x"), "betas is 'x'"),
        (_set("preconditioning", "betas", {}), "'recipe'"),
        (
            _set("preconditioning", "betas", {"recipe": []}),
            r"recipe of .* is \[\]; exp",
        ),
        (
            _set("preconditioning", "betas", {"recipe": "linear", "start": "x"}),
            "start of the betas is 'x'",
        ),
    ],
)
def test_descriptions_that_make_no_sense_are_refused(saved, change, message):
    path = saved / "model.json"
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        NetworkPrior.restore(saved)


@pytest.mark.parametrize("name", ["sigma_min", "sigma_max"])
@pytest.mark.parametrize("value", [None, "x", [], -1, 0, True, float("nan"), "1.0"])
def test_noise_levels_that_are_none_are_refused(saved, name, value):
    _refused(saved, name, value, "expected noise levels 0 < sigma_min < sigma_max")


@pytest.mark.parametrize("level", [80, 100.0, float("inf")])
def test_a_range_of_noise_levels_that_is_empty_is_refused(saved, level):
    _refused(saved, "sigma_min", level, "0 < sigma_min < sigma_max. Correct it")


@pytest.mark.parametrize(
    "shape",
    ["x", [], None, 8, [8, 8], [8.0, 8.0, 1.0], [8, 8, 0], [8, -8, 1], [8, "8", 1]],
)
def test_shapes_that_are_none_are_refused(saved, shape):
    _refused(saved, "shape", shape, "expected height, width and channels")


def _refused(folder, name, value, message):
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=rf"model\.json: .*{name}.*{message}"):
        NetworkPrior.restore(folder)


def test_a_prior_of_one_noise_level_is_restored(tmp_path):
    rule = NoisePrediction(betas=Betas(num_timesteps=1))
    level = float(rule.levels()[0])
    prior = _prior(preconditioning=rule, sigma_min=level, sigma_max=level)
    prior.save(tmp_path / "prior")
    restored = NetworkPrior.restore(tmp_path / "prior")
    assert (restored.sigma_min, restored.sigma_max) == (level, level)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null"])
def test_descriptions_that_are_no_json_objects_are_refused(saved, text):
    (saved / "model.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"model\.json (is not valid JSON|describes a)"
    ):
        NetworkPrior.restore(saved)


def _conditional(name, **arguments):
    level = {"width": 32, "blocks": 1}
    shared = {"channels": [1, 1], "width": 32, "levels": [level]}
    architecture = Architecture.of(name, **shared | arguments)
    return NetworkPrior.create(architecture, (8, 8, 1), key=jax.random.key(0))


def test_a_class_conditions_the_network():
    plain = _conditional("adm_unet", middle_heads=2)
    prior = _conditional("adm_unet", middle_heads=2, classes=3)
    assert (plain.num_classes, prior.num_classes) == (0, 3)
    leaves, structure = jax.tree.flatten(prior.net)
    rng = np.random.default_rng(0)
    drawn = [jnp.asarray(0.3 * rng.normal(size=leaf.shape)) for leaf in leaves]
    prior = dataclasses.replace(prior, net=jax.tree.unflatten(structure, drawn))
    x = jax.random.normal(jax.random.key(1), prior.shape)
    found = prior.of_class(2).denoise(x, 0.7)
    c = prior.preconditioning(jnp.asarray(0.7))
    raw = prior.net(c.inside * x, c.noise, label=2)
    chex.assert_trees_all_close(found, c.skip * x + c.out * raw, atol=1e-6)
    assert float(jnp.max(jnp.abs(prior.of_class(0).denoise(x, 0.7) - found))) > 0.1


def test_classes_that_there_are_not():
    prior = _conditional("adm_unet", classes=3)
    others = [3, -1, 1.5, 1.0, True, "1", 2**70, np.array([1])]
    for label, message in [(None, "none was given"), *((o, "0 to 2") for o in others)]:
        with pytest.raises(ValueError, match=message):
            prior.of_class(label)
    with pytest.raises(ValueError, match="knows no classes"):
        _conditional("adm_unet").of_class(1)
    for label in (1, np.int8(1), jnp.asarray(1)):
        assert prior.of_class(label).condition["label"] == 1
