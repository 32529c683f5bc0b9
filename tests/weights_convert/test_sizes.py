"""Sizes that the levels of a network cannot halve, and filters that halve them."""

import re

import numpy as np
import pytest

from tests.weights_convert.fixture_networks import FOLDERS, files, meta, settings
from tests.weights_convert.test_diffusers import CLAIMS, CONFIG
from tests.weights_convert.test_families import Claim, guided_shapes
from weights_convert.convert import prepare
from weights_convert.families.base import PRIOR, ConfigError
from weights_convert.families.sizes import check_halvings
from weights_convert.mapping import MappingError
from weights_convert.readers import open_checkpoint

EDM = [folder for folder in FOLDERS if meta(folder)["family"] == "edm"]


def _edm(folder, **config):
    file = files(folder)[0]
    return prepare(open_checkpoint(file).tensors, settings(folder, file) | config)


def _renamed(folder, old, new):
    """Return the tensors of a network of EDM, by other resolutions."""
    file = files(folder)[0]
    tensors = open_checkpoint(file).tensors
    names = {n: re.sub(rf"\b{old}x{old}_", f"{new}x{new}_", n) for n in tensors}
    return {names[n]: t for n, t in tensors.items()}, settings(folder, file)


@pytest.mark.parametrize("size", [15, 30, [16, 9], 1])
def test_a_size_that_cannot_be_halved_is_refused_with_the_divisor(size):
    guided = {n: Claim(s) for n, s in guided_shapes(64, (1, 2, 2), 1, {2}).items()}
    for claims, config, unit in [
        (CLAIMS, CONFIG | {"sample_size": size}, 2),
        (guided, {"image_size": size, "num_head_channels": 64}, 4),
    ]:
        if size == 30 and unit == 2:
            continue
        with pytest.raises(ConfigError, match=f"size = .*divisible by {unit}, for"):
            prepare(claims, config)


@pytest.mark.parametrize(("levels", "unit"), [(1, 1), (2, 2), (4, 8)])
def test_the_divisor_is_the_least(levels, unit):
    check_halvings("size", (unit, 3 * unit), levels)
    if unit > 1:
        with pytest.raises(ConfigError, match=rf"size = {unit - 1}; .* by {unit}, "):
            check_halvings("size", (unit - 1, unit - 1), levels)


def test_networks_of_edm_say_their_size_by_their_names():
    folder = EDM[0]
    found = re.findall(r"enc\.(\d+)x", " ".join(_edm(folder).tensors))
    finest, coarsest = max(map(int, found)), min(map(int, found))
    tensors, config = _renamed(folder, coarsest, 3 * coarsest + 1)
    with pytest.raises(MappingError, match="each must be half the one before"):
        prepare(tensors, config, "edm")
    tensors, config = _renamed(folder, finest, finest + 1)
    with pytest.raises(
        ConfigError, match=rf"= {finest + 1}; it must be divisible by 2,"
    ):
        prepare(tensors, config | {"img_resolution": finest + 1}, "edm")


def test_images_that_the_classifier_cannot_halve():
    """6 x 24 pixels are 9 times 16, but 6 is not 4 times anything."""
    shapes = {
        "time_embed.0.weight": (256, 64),
        "input_blocks.0.0.weight": (64, 3, 3, 3),
        "out.2.positional_embedding": (128, 10),
    }
    claims = {name: Claim(shape) for name, shape in shapes.items()}
    with pytest.raises(ConfigError, match=r"\[6, 24\]; it must be divisible by 4"):
        prepare(claims, {"image_size": [6, 24], "num_head_channels": 64})


@pytest.mark.parametrize(
    "taps",
    [
        *([1, "a"], [1, None], [1, float("nan")], [1, float("inf")], [], [1, True]),
        *([1, 2, 1], [1], [1, -1], "1,1", 3, {"a": 1}, [[1, 1], [1, 1]], "", 0),
    ],
    ids=str,
)
def test_filters_that_do_not_resample_are_refused_by_name(taps):
    with pytest.raises(ConfigError, match=r"resample_filter(\[\d\])? = .*it must be a"):
        _edm(EDM[0], resample_filter=taps)


def test_filters_of_another_kind_than_the_file_holds_are_refused():
    with pytest.raises(MappingError, match="Correct resample_filter"):
        _edm(EDM[0], resample_filter=[1, 7, 7, 1])
    same = [_edm(EDM[0], **given).plan for given in ({}, {"resample_filter": None})]
    assert same[0].architecture == same[1].architecture


def test_filters_of_complex_numbers_are_refused():
    file = files(EDM[0])[0]
    tensors = dict(open_checkpoint(file).tensors)
    name = next(name for name in tensors if name.endswith("resample_filter"))
    tensors[name] = Claim(tensors[name].shape, np.dtype(np.complex64))
    with pytest.raises(MappingError, match="resample_filter holds complex numbers"):
        prepare(tensors, settings(EDM[0], file))


@pytest.mark.parametrize("name", ["silu", "swish", "SiLU", "Swish"])
def test_the_nonlinearity_has_several_names(name):
    assert prepare(CLAIMS, CONFIG | {"act_fn": name}).plan.kind == PRIOR
    with pytest.raises(ConfigError, match="act_fn = 'gelu' cannot be converted"):
        prepare(CLAIMS, CONFIG | {"act_fn": "gelu"})
