"""First stages of latent diffusion: the same network under other names."""

import re

import chex
import jax
import numpy as np
import pytest

from diffctl.nets import Architecture
from weights_convert import export
from weights_convert.convert import build, prepare
from weights_convert.families import FAMILIES
from weights_convert.families.base import AUTOENCODER

# From the names of diffusers to those of latent-diffusion, by their descriptions.
RENAMINGS = [
    (r"down_blocks\.(\d+)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets", r"up.<\1>.block"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.<\1>.upsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_(.)", r"mid.attn_1.\1"),
    (r"conv_shortcut", "nin_shortcut"),
    (r"conv_norm_out", "norm_out"),
]


class Tensor:
    """An array that is read on demand."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def read(self):
        return self.array


def _renamed(name, levels):
    for pattern, replacement in RENAMINGS:
        name = re.sub(pattern, replacement, name)
    # The finest level is the first there, on the way up as well.
    return re.sub(r"<(\d+)>", lambda found: str(levels - 1 - int(found[1])), name)


def _file(net, architecture, levels):
    arrays = export.tensors(net, architecture, FAMILIES["autoencoder-kl"])
    return {
        new: Tensor(array[:, :, None, None] if _is_attention(new, array) else array)
        for name, array in arrays.items()
        for new in [_renamed(name, levels)]
    }


def _is_attention(name, array):
    return "attn_1" in name and array.ndim == 2


@pytest.fixture(scope="module")
def stage():
    levels = [{"width": 32, "blocks": 1, "resample": "corner"} for _ in range(2)]
    levels.append({"width": 64, "blocks": 1})
    architecture = Architecture.of(
        "autoencoder_kl", channels=[3, 32, 4, 5], levels=levels
    )
    leaves, structure = jax.tree.flatten(architecture.abstract())
    rng = np.random.default_rng(0)
    drawn = [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    net = jax.tree.unflatten(structure, drawn)
    return net, _file(net, architecture, 3)


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_the_same_network_by_other_names(stage, prefix):
    net, tensors = stage
    assert "decoder.up.0.block.1.conv2.weight" in tensors
    file = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    others = ["loss.logvar", "model.diffusion_model.out.2.weight", "betas"]
    file |= {name: Tensor(np.zeros(3, np.float32)) for name in others}
    found = prepare(file, {"resolution": 32})
    assert found.family.name == "latent-diffusion"
    assert found.plan.kind == AUTOENCODER
    assert set(found.ignored) == set(others)
    for left, right in zip(
        jax.tree.leaves(build(found)), jax.tree.leaves(net), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_export_writes_a_file_of_the_stage_alone(stage):
    _, tensors = stage
    found = prepare(tensors, {"resolution": 32})
    back = export.tensors(build(found), found.plan.architecture, found.family)
    expected = {name: tensor.array for name, tensor in tensors.items()}
    chex.assert_trees_all_equal(back, expected)
