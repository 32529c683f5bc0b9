"""Families: detection, what the shapes tell, what must be asked, known checkpoints."""

import re
from typing import NamedTuple

import numpy as np
import pytest

from diffctl.priors.network import parameter_count
from tests.weights_convert.fixture_networks import (
    FOLDERS,
    conversion,
    files,
    ids,
    meta,
    settings,
)
from weights_convert.configs import CONFIGS
from weights_convert.convert import detect, parameters, prepare
from weights_convert.families import FAMILIES
from weights_convert.families.base import ConfigError
from weights_convert.heads import heads
from weights_convert.mapping import MappingError, expected_tensors
from weights_convert.readers import open_checkpoint

every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=ids(FOLDERS))


class Claim(NamedTuple):
    """A tensor of which only the shape matters."""

    shape: tuple[int, ...]
    dtype: np.dtype = np.dtype(np.float32)


class Guided:
    """The names and shapes of guided-diffusion files, written from their description.

    Shares nothing with the rules of the family.
    """

    def __init__(self, width):
        self.embedding = 4 * width
        self.shapes = {}
        self.layer("time_embed.0", self.embedding, width)
        self.layer("time_embed.2", self.embedding, self.embedding)

    def layer(self, name, *shape):
        self.shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}

    def block(self, name, start, stop):
        self.layer(f"{name}.in_layers.0", start)
        self.layer(f"{name}.in_layers.2", stop, start, 3, 3)
        self.layer(f"{name}.emb_layers.1", 2 * stop, self.embedding)
        self.layer(f"{name}.out_layers.0", stop)
        self.layer(f"{name}.out_layers.3", stop, stop, 3, 3)
        if start != stop:
            self.layer(f"{name}.skip_connection", stop, start, 1, 1)

    def attention(self, name, width):
        self.layer(f"{name}.norm", width)
        self.layer(f"{name}.qkv", 3 * width, width, 1)
        self.layer(f"{name}.proj_out", width, width, 1)


def guided_shapes(width, multipliers, num_blocks, attended, classes=0):
    """Return name and shape of every tensor of a network that resamples in blocks."""
    file = Guided(width)
    if classes:
        file.shapes["label_emb.weight"] = (classes, 4 * width)
    last = len(multipliers) - 1
    current = width * multipliers[0]
    file.layer("input_blocks.0.0", current, 3, 3, 3)
    skips, index = [current], 1
    for level, multiplier in enumerate(multipliers):
        for _ in range(num_blocks):
            file.block(f"input_blocks.{index}.0", current, width * multiplier)
            current = width * multiplier
            if level in attended:
                file.attention(f"input_blocks.{index}.1", current)
            skips.append(current)
            index += 1
        if level != last:
            file.block(f"input_blocks.{index}.0", current, current)
            skips.append(current)
            index += 1
    file.block("middle_block.0", current, current)
    file.attention("middle_block.1", current)
    file.block("middle_block.2", current, current)
    index = 0
    for level in range(last, -1, -1):
        for number in range(num_blocks + 1):
            name = f"output_blocks.{index}"
            file.block(f"{name}.0", current + skips.pop(), width * multipliers[level])
            current = width * multipliers[level]
            if level in attended:
                file.attention(f"{name}.1", current)
            if level and number == num_blocks:
                file.block(f"{name}.{1 + (level in attended)}", current, current)
            index += 1
    file.layer("out.0", current)
    file.layer("out.2", 6, current, 3, 3)
    return file.shapes


PUBLIC = {
    # File size, levels with attention, and the number of parameters of the release.
    "ffhq": (guided_shapes(128, (1, 1, 2, 2, 4, 4), 1, {4}), 93_563_910),
    "imagenet256": (guided_shapes(256, (1, 1, 2, 2, 4, 4), 2, {3, 4, 5}), 552_814_086),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_guided_diffusion_files_are_accepted(name):
    shapes, num_parameters = PUBLIC[name]
    known = CONFIGS[name]
    claims = {tensor: Claim(shape) for tensor, shape in shapes.items()}
    found = prepare(claims, known.settings, known.family)
    assert parameter_count(found.net) == num_parameters
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == num_parameters
    assert found.plan.shape == (256, 256, 3)
    assert found.plan.description["variance"] == "learned"
    written = {
        source.tensor
        for path in found.leaves
        for source in expected_tensors(path, found.plan.rules, found.leaves)
    }
    assert written == set(shapes)
    assert detect(shapes).name == known.family


@pytest.mark.parametrize(
    ("name", "width", "multipliers", "num_blocks", "attended", "heads"),
    [
        ("imagenet64", 192, (1, 2, 3, 4), 3, {1, 2, 3}, [0, 6, 9, 12]),
        ("imagenet128", 256, (1, 1, 2, 3, 4), 2, {2, 3, 4}, [0, 0, 4, 4, 4]),
        (
            "imagenet512",
            256,
            (0.5, 1, 1, 2, 2, 4, 4),
            2,
            {4, 5, 6},
            [0, 0, 0, 0, 8, 16, 16],
        ),
        ("lsun", 256, (1, 1, 2, 2, 4, 4), 2, {3, 4, 5}, [0, 0, 0, 8, 16, 16]),
    ],
)
def test_other_known_guided_diffusion_files(
    name, width, multipliers, num_blocks, attended, heads
):
    doubled = [int(2 * m) for m in multipliers]  # whole numbers, 0.5 included
    shapes = guided_shapes(width // 2, doubled, num_blocks, attended, classes=1000)
    embedding = {"time_embed.0.weight": (4 * width, width)}
    embedding["time_embed.2.weight"] = (4 * width, 4 * width)
    shapes = {
        tensor: _widened(tensor, shape, width) for tensor, shape in shapes.items()
    } | embedding
    claims = {tensor: Claim(shape) for tensor, shape in shapes.items()}
    found = prepare(claims, CONFIGS[name].settings, CONFIGS[name].family)
    arguments = found.plan.architecture.to_json()["arguments"]
    assert [level["heads"] for level in arguments["levels"]] == heads
    assert arguments["classes"] == 1000


def _widened(tensor, shape, width):
    """Give layers of the time embedding the width that belongs to `width`."""
    if "emb_layers" in tensor and len(shape) == 2:
        return (shape[0], 4 * width)
    if tensor.startswith("time_embed") and len(shape) == 1:
        return (4 * width,)
    return (1000, 4 * width) if tensor == "label_emb.weight" else shape


@every_folder
def test_detection_and_counts(folder):
    found = conversion(folder, files(folder)[0])
    assert detect({k: t.shape for k, t in found.tensors.items()}) is found.family
    buffers = sum(value.size for value in found.plan.constants.values())
    assert parameter_count(found.net) + buffers == meta(folder)["num_parameters"]
    assert not found.ignored


@every_folder
def test_every_file_of_a_folder_holds_the_same_network(folder):
    first, *others = (conversion(folder, file) for file in files(folder))
    expected = dict(parameters(first))
    for other in others:
        for path, array in parameters(other):
            np.testing.assert_array_equal(array, expected[path], err_msg=path)


@every_folder
def test_a_tensor_too_many_or_too_few_is_an_error(folder):
    file = files(folder)[0]
    tensors, config = open_checkpoint(file).tensors, settings(folder, file)
    name = sorted(tensors)[len(tensors) // 2]
    fewer = {other: t for other, t in tensors.items() if other != name}
    with pytest.raises((MappingError, ConfigError)):
        prepare(fewer, config, conversion(folder, file).family.name)
    more = tensors | {f"{name}_copy": tensors[name]}
    with pytest.raises(MappingError, match=re.escape(f"{name}_copy has no place")):
        prepare(more, config, conversion(folder, file).family.name)


def test_files_that_nobody_knows_are_refused():
    with pytest.raises(ConfigError, match=r"tensors like strange\.weight"):
        prepare({"strange.weight": Claim((1,))}, {})
    with pytest.raises(MappingError, match="every DDPM U-Net"):
        prepare({"strange.weight": Claim((1,))}, {}, "ddpm")
    with pytest.raises(ConfigError, match=r"no family 'dppm'; .*ddpm"):
        prepare({"strange.weight": Claim((1,))}, {}, "dppm")
    with pytest.raises(MappingError, match="describe no DDPM U-Net"):
        prepare({"temb.dense.0.weight": Claim((1,))}, {}, "ddpm")


def test_what_the_shapes_do_not_tell_is_asked_for():
    shapes, _ = PUBLIC["ffhq"]
    claims = {tensor: Claim(shape) for tensor, shape in shapes.items()}
    with pytest.raises(ConfigError, match="'image_size' is needed"):
        prepare(claims, {"num_heads": 4})
    with pytest.raises(ConfigError, match="'num_heads' is needed"):
        prepare(claims, {"image_size": 256})


def test_settings_that_contradict_the_file_are_refused():
    shapes, _ = PUBLIC["ffhq"]
    claims = {tensor: Claim(shape) for tensor, shape in shapes.items()}
    base = {"image_size": 256, "num_head_channels": 64}
    for wrong in (
        {"num_channels": 64},
        {"num_res_blocks": 2},
        {"channel_mult": "1,2,2"},
        {"use_scale_shift_norm": False},
        {"resblock_updown": False},
    ):
        (name,) = wrong
        with pytest.raises(ConfigError, match=f"says {name} = .*the file say"):
            prepare(claims, base | wrong)
    with pytest.raises(ConfigError, match="48 does not divide the 512 channels"):
        prepare(claims, {"image_size": 256, "num_head_channels": 48})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_verified(family):
    assert heads(family, None)


def test_known_checkpoints_name_families():
    assert {known.family for known in CONFIGS.values()} <= set(FAMILIES)
    wanted = {"ffhq", "imagenet64", "imagenet128", "imagenet256", "imagenet512"}
    wanted |= {"lsun", "edm-cifar10", "edm-ffhq64", "edm-afhq", "edm-imagenet64"}
    wanted |= {"ddpm-celebahq", "ddpm-mnist", "mnist-28"}
    assert wanted <= set(CONFIGS)
