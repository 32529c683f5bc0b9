"""Folders of models from strangers: a clear answer before anything is built."""

import json
import re
import shutil
import struct
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffctl import checkpoint
from diffctl.nets import Architecture
from diffctl.priors import FlowPrior, LatentDiffusionPrior, NetworkPrior
from diffctl.priors.weights import read_table
from tests.priors.small_models import (
    AUTOENCODER,
    GENERATIVE,
    NAMES,
    SHAPE,
    U_NETS,
    change,
    save,
)

# What no message should say: it is Python's, or a library's, way to put it.
INTERNAL = re.compile(
    r"KeyError|TypeError|NoneType|unexpected keyword|positional|subscript|__init__|"
    r"unhashable|zip\(\)|unpack|RecursionError|'\w+' object|codec"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {name: (save(name, root / name), root / name) for name in NAMES}


@pytest.fixture
def model(models, tmp_path):
    """Copy a model and return how it is restored, and its copy."""

    def copied(name):
        restore, folder = models[name]
        return restore, shutil.copytree(folder, tmp_path / name)

    return copied


def refused(restore, folder, message):
    with pytest.raises(ValueError, match=message) as caught:
        restore(folder)
    said = str(caught.value)
    assert str(folder) in said and len(said) < 700, said
    assert not INTERNAL.search(said), said


@pytest.mark.parametrize("name", NAMES)
def test_what_was_saved_comes_back(models, name):
    restore, folder = models[name]
    found = restore(folder)
    net = found[0] if isinstance(found, tuple) else found.net
    stored = load_file(folder / "weights.safetensors")
    assert sum(a.size for a in stored.values()) == sum(
        leaf.size for leaf in jax.tree.leaves(net)
    )


_MANY = 10**6
_TOO_MANY = r"only .* numbers for its|more parameters than|fit together|entry of both"
_COUNTS = [
    ("unet", ("blocks",), [1, _MANY]),
    ("unet", ("widths",), [4] * 5000),
    ("adm_unet", ("levels", 0, "blocks"), _MANY),
    ("adm_classifier", ("levels", 1, "blocks"), _MANY),
    ("song_unet", ("levels", 0, "blocks"), _MANY),
    ("edm_adm_unet", ("levels", 1, "blocks"), _MANY),
    ("ddpm_unet", ("down", 0, "blocks"), _MANY),
    ("ddpm_unet", ("up", 0, "blocks"), _MANY),
    ("autoencoder_kl", ("levels", 0, "blocks"), _MANY),
    ("FlowPrior", ("couplings",), _MANY),
    ("RegressionNetwork", ("depth",), _MANY),
]


@pytest.mark.parametrize(("name", "path", "value"), _COUNTS)
def test_a_million_blocks_are_not_built(model, name, path, value):
    restore, folder = model(name)
    change(folder, "architecture", "arguments", *path, to=value)
    start = time.monotonic()
    refused(restore, folder, _TOO_MANY)
    described = json.loads((folder / "model.json").read_text())["architecture"]
    table = read_table(folder / "weights.safetensors")
    # Nor if the file is large: it has too few tensors all the same.
    with pytest.raises(ValueError, match=_TOO_MANY):
        Architecture.from_json(described).abstract_within(len(table), 10**10)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("unet", ("widths", 0)), ("unet", ("embedding",)), ("unet", ("patch",)),
        ("unet", ("groups",)), ("adm_unet", ("width",)), ("song_unet", ("size",)),
        ("adm_unet", ("levels", 0, "width")), ("ddpm_unet", ("style", "groups")),
        ("ddpm_unet", ("channels", 1)), ("autoencoder_kl", ("channels", 3)),
        ("digit_classifier", ("widths", 2)), ("digit_classifier", ("kernel",)),
        ("adm_classifier", ("pool", "classes")), ("GeneratorPrior", ("latent",)),
        ("EnergyPrior", ("size",)), ("RegressionNetwork", ("width",)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [0, -1, 2.0, "4", True, None, 10**12])
def test_widths_and_counts_that_are_none(model, name, path, value):
    restore, folder = model(name)
    change(folder, "architecture", "arguments", *path, to=value)
    if value == 10**12:
        refused(restore, folder, "argument of 1000000000000, and there are only")
    else:
        refused(
            restore, folder, rf"{path[-1] if path[-1] != 0 else path[0]}.* is .*exp"
        )


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("unet", ("architecture",), "x", "architecture of the model is 'x'; .*a table"),
        ("unet", ("architecture", "name"), [], r"name of architecture is \[\]"),
        ("unet", ("architecture", "arguments"), [], r"is \[\]; expected a table"),
        ("unet", ("architecture", "arguments", "name"), 1, "no setting 'name'"),
        ("unet", ("architecture", "arguments", "widths"), [4], "one entry of both"),
        ("adm_unet", ("architecture", "arguments", "channels"), [1], "2 entries"),
        (
            "adm_unet",
            ("architecture", "arguments", "modulation"),
            "x",
            "'x'; expected 'film' or 'additive'",
        ),
        (
            "song_unet",
            ("architecture", "arguments", "encoder"),
            "skip",
            "'skip'; expected 'standard' or 'residual'",
        ),
        ("unet", ("architecture", "name"), "small_decoder", "has no setting 'blocks'"),
        ("unet", ("sigma_min",), -1, "sigma_min .* is -1; expected noise levels"),
        ("unet", ("preconditioning", "sigma_data"), 10**350, "expected a finite"),
        ("unet", ("preconditioning", "sigma_data"), 0, "expected a finite number > 0"),
        ("EnergyPrior", ("settings", "spread"), "x", "spread of the settings is 'x'"),
        (
            "EnergyPrior",
            ("settings", "speed"),
            1,
            "has no setting 'speed'; there are: s",
        ),
        ("FlowPrior", ("settings", "spread"), 1.0, "there are: none"),
        ("FlowPrior", ("settings",), None, "settings of the model is None"),
        (
            "ConditionalNetwork",
            ("settings",),
            {},
            "lacks the setting 'preconditioning'",
        ),
        ("autoencoder_kl", ("scaling_factor",), "x", "scaling_factor .* is 'x'"),
        ("autoencoder_kl", ("scaling_factor",), 0, "expected a finite number > 0"),
        (
            "autoencoder_kl",
            ("shift",),
            [0.1] * 3,
            "shift has 3 numbers; .* the 2 chann",
        ),
        (
            "autoencoder_kl",
            ("kind",),
            [],
            r"describes a \[\], expected a 'autoencoder'",
        ),
    ],
)
def test_settings_that_make_no_sense(model, name, path, value, message):
    restore, folder = model(name)
    change(folder, *path, to=value)
    refused(restore, folder, message)


@pytest.mark.parametrize(
    "betas",
    [
        {"recipe": "linear", "num_timesteps": 10**9},
        {"recipe": "linear", "num_timesteps": 10.0},
        {"recipe": "linear", "num_timesteps": 0},
        {"recipe": "scaled_linear", "start": -1.0},
        {"recipe": "linear", "end": 1.0},
        {"recipe": "table", "table": [0.5, 2.0]},
        {"recipe": "table", "table": ["x"]},
        {"recipe": "table", "table": []},
        {"recipe": "x"},
        {"recipe": "linear", "offset": 1},
    ],
)
def test_schedules_that_are_none(model, betas):
    restore, folder = model("unet")
    rule = {"name": "noise_prediction", "label_scale": 1.0}
    change(folder, "preconditioning", to=rule | {"betas": betas})
    refused(restore, folder, r"betas|schedule|num_timesteps")


@pytest.mark.parametrize("kind", GENERATIVE)
@pytest.mark.parametrize("shape", ["abc", [-8, 8, 1], [8, 8.0, 1], [], [8, True, 1]])
def test_shapes_that_are_none(model, kind, shape):
    restore, folder = model(kind.__name__)
    change(folder, "shape", to=shape)
    refused(restore, folder, r"shape of the model(\[\d\])? is ")


@pytest.mark.parametrize(
    "kind", [k for k in GENERATIVE if k.__name__ != "RegressionNetwork"]
)
def test_shapes_of_other_networks(model, kind):
    """The features of a regression, which decide its shape, are not known."""
    restore, folder = model(kind.__name__)
    change(folder, "shape", to=[7, 8, 1])
    refused(
        restore, folder, rf"shape is \[7, 8, 1\], and the network .* no {kind.kind}"
    )
    with pytest.raises(ValueError, match=r"shape is \[7, 8, 1\]"):
        kind.create(GENERATIVE[kind], (7, 8, 1), key=jax.random.key(0))


def _takes(net, size):
    image = jax.ShapeDtypeStruct((size, size, 1), jnp.float32)
    label = {"label": 0} if getattr(net, "classes", 0) else {}
    try:
        found = jax.eval_shape(lambda n, x: n(x, jnp.ones(()), **label), net, image)
    except (TypeError, ValueError):
        return False
    return found.shape == image.shape


@pytest.mark.parametrize("name", U_NETS)
def test_the_divisor_is_that_of_the_sizes_that_a_network_takes(name):
    net = U_NETS[name].abstract()
    images = net.images
    assert (images.channels_in, images.channels_out) == (1, 1)
    for size in (3, 4, 6, 8):
        assert _takes(net, size) == (size % images.divisor == 0)


@pytest.mark.parametrize("name", U_NETS)
def test_sizes_that_cannot_be_halved_are_refused_with_the_divisor(model, name):
    restore, folder = model(name)
    divisor = U_NETS[name].abstract().images.divisor
    message = rf"expected multiples of {divisor}\."
    change(folder, "shape", to=[8, 9, 1])
    refused(restore, folder, message)
    with pytest.raises(ValueError, match=message):
        NetworkPrior.create(U_NETS[name], (9, 8, 1), key=jax.random.key(0))
    change(folder, "shape", to=[8, 8, 3])
    refused(restore, folder, "takes 1 and makes 1 channels; expected 3 and 3")


def test_other_checks_of_create_are_those_of_restore():
    for shape in ("abc", (8, 8), (8.0, 8, 1), (8, -8, 1), (8, True, 1)):
        with pytest.raises(ValueError, match=r"expected height, width and channels"):
            NetworkPrior.create(U_NETS["unet"], shape, key=jax.random.key(0))
    for levels in ({"sigma_min": -1.0}, {"sigma_max": np.nan}, {"sigma_min": 90.0}):
        with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
            NetworkPrior.create(U_NETS["unet"], SHAPE, key=jax.random.key(0), **levels)
    with pytest.raises(ValueError, match="a SmallDecoder is no denoiser of images"):
        decoder = next(iter(GENERATIVE.values()))
        NetworkPrior.create(decoder, SHAPE, key=jax.random.key(0))


def test_folders_of_a_pipeline_that_do_not_belong_together(model):
    _, unet = model("unet")
    change(unet, "kind", to="latent diffusion prior")
    _, autoencoder = model("autoencoder_kl")
    for scaling in ([0.2, 0.3], 0.2):
        change(autoencoder, "scaling_factor", to=scaling)
        with pytest.raises(ValueError, match="Take the autoencoder that the latent"):
            LatentDiffusionPrior.restore(unet, autoencoder)
    assert AUTOENCODER.abstract().latent_channels == 2


def _rewritten(folder, edit):
    path = folder / "weights.safetensors"
    arrays = load_file(path)
    edit(arrays)
    save_file(arrays, path)


@pytest.mark.parametrize("dtype", ["int8", "bool", "complex64", "int32", "uint8"])
def test_weights_that_are_no_floats_are_refused_by_name(model, dtype):
    restore, folder = model("unet")
    _rewritten(folder, lambda a: a.update({"stem.bias": a["stem.bias"].astype(dtype)}))
    refused(restore, folder, r"'stem\.bias' is .*; expected parameters of float64, fl")


def _retyped(folder, arrays, name, code, data):
    """Write a safetensors file whose tensor `name` has another type."""
    path, header, body = folder / "weights.safetensors", {}, b""
    for key, array in arrays.items():
        raw = data if key == name else array.tobytes()
        header[key] = {
            "dtype": code if key == name else "F32",
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_float8_is_refused_and_the_floats_that_networks_compute_with_are_read(model):
    restore, folder = model("unet")
    arrays = load_file(folder / "weights.safetensors")
    expected = arrays["stem.bias"]
    for code in ("F8_E4M3", "F8_E5M2", "U4", "X"):
        _retyped(folder, arrays, "stem.bias", code, bytes(4))
        refused(restore, folder, f"is {code}; expected parameters of float64, float32")
    for code, dtype, error in [
        ("BF16", ml_dtypes.bfloat16, 1e-2),
        ("F16", np.float16, 1e-3),
        ("F64", np.float64, 1e-7),
    ]:
        _retyped(
            folder,
            arrays,
            "stem.bias",
            code,
            np.asarray(expected).astype(dtype).tobytes(),
        )
        found = np.asarray(restore(folder).net.stem.bias[...], np.float64)
        np.testing.assert_allclose(found, expected, rtol=error)
    _retyped(folder, arrays, "stem.bias", "F64", np.full(4, 1e300).tobytes())
    refused(restore, folder, r"4 of the 4 numbers of stem\.bias are not finite")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_counted_and_refused(model, value):
    restore, folder = model("unet")

    def spoil(arrays):
        arrays["stem.kernel"].ravel()[[3, 5]] = value

    _rewritten(folder, spoil)
    refused(restore, folder, r"2 of the 144 numbers of stem\.kernel are not finite")


@pytest.mark.parametrize(
    "header",
    [
        [], "x", {"stem.bias": 3}, {"stem.bias": {"dtype": 1, "shape": [4]}},
        {"stem.bias": {"dtype": "F32", "shape": "x"}},
        {"stem.bias": {"dtype": "F32", "shape": [-4]}},
        {"stem.bias": {"dtype": "F32", "shape": [True]}},
        {"stem.bias": {"dtype": "F32", "shape": [2**60]}},
    ],
)  # fmt: skip
def test_headers_that_make_no_sense(model, header):
    restore, folder = model("unet")
    text = json.dumps(header).encode()
    path = folder / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    refused(restore, folder, "truncated or not a safetensors file")


def test_tables_of_tens_of_thousands_of_empty_tensors(model):
    restore, folder = model("unet")
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    path = folder / "weights.safetensors"
    for count, message in [(5_000, "only 0 numbers"), (50_000, "of memory, far more")]:
        text = json.dumps({f"t{i}": entry for i in range(count)}).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text)
        start = time.monotonic()
        refused(restore, folder, message)
        assert time.monotonic() - start < 5


def test_deep_descriptions(model):
    restore, folder = model("FlowPrior")
    deep = "[" * 900 + "]" * 900
    text = (
        (folder / "model.json").read_text().replace('"notes": null', f'"notes": {deep}')
    )
    (folder / "model.json").write_text(text)
    refused(restore, folder, "more than 64 levels")


def test_orbax_folders_are_held_to_the_same(model):
    restore, folder = model("FlowPrior")
    arrays = load_file(folder / "weights.safetensors")
    (folder / "weights.safetensors").unlink()
    checkpoint.save(folder / "weights.orbax", arrays)
    for name in ("couplings.0.dense1.bias", "shift"):
        leaf = restore(folder).net
        for part in name.split("."):
            leaf = leaf[int(part)] if part.isdigit() else getattr(leaf, part)
        np.testing.assert_array_equal(leaf[...], arrays[name])
    change(folder, "architecture", "arguments", "couplings", to=1)
    refused(FlowPrior.restore, folder, r"does not fit model\.json: missing \[\], unkn")
    change(folder, "architecture", "arguments", "couplings", to=2)
    checkpoint.save(folder / "weights.orbax", arrays | {"shift": np.zeros(64, int)})
    refused(FlowPrior.restore, folder, r"'shift' is int64; expected parameters")
    checkpoint.save(
        folder / "weights.orbax", arrays | {"shift": arrays["shift"] * np.nan}
    )
    refused(FlowPrior.restore, folder, "64 of the 64 numbers of shift are not finite")


def test_notes_are_saved_only_if_they_can_be_read_again(models, tmp_path):
    prior = NetworkPrior.restore(models["unet"][1])
    losses = {"loss": [round(0.01 * i, 2) for i in range(120_000)]}
    prior.save(tmp_path / "long", notes=losses)
    NetworkPrior.restore(tmp_path / "long")
    deep = []
    for _ in range(70):
        deep = [deep]
    with pytest.raises(ValueError, match=r"too long or too deep.*64 levels.* own\."):
        prior.save(tmp_path / "deep", notes=deep)
    assert not (tmp_path / "deep").exists()


def test_shapes_of_numpy_are_shapes():
    shape = tuple(np.array(SHAPE))
    prior = NetworkPrior.create(U_NETS["unet"], shape, key=jax.random.key(0))
    assert prior.shape == SHAPE
