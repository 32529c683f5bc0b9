"""Block types and options of UNet2DModel that no recorded network has: the wiring."""

import jax
import numpy as np
import pytest

from diffctl.priors.preconditioning import (
    NoisePrediction,
    VelocityPrediction,
    from_json,
)
from tests.weights_convert.test_families import Claim
from weights_convert import export
from weights_convert.convert import build, prepare
from weights_convert.families import FAMILIES
from weights_convert.families.base import ConfigError
from weights_convert.mapping import MappingError

CONFIG = {
    "block_out_channels": [32, 64],
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "upsample_type": "resnet",
    "layers_per_block": 1,
    "attention_head_dim": 16,
    "norm_num_groups": 8,
    "resnet_time_scale_shift": "scale_shift",
    "num_class_embeds": 5,
    "sample_size": 16,
    "mid_block_scale_factor": 2,
    "scheduler": {"prediction_type": "v_prediction"},
}


def _names():
    """Name and shape of every tensor, written from the layout's description."""
    shapes = {"class_embedding.weight": (5, 128)}

    def layer(name, *shape):
        shapes.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def block(name, start, stop):
        layer(f"{name}.norm1", start)
        layer(f"{name}.conv1", stop, start, 3, 3)
        layer(f"{name}.time_emb_proj", 2 * stop, 128)
        layer(f"{name}.norm2", stop)
        layer(f"{name}.conv2", stop, stop, 3, 3)
        if start != stop:
            layer(f"{name}.conv_shortcut", stop, start, 1, 1)

    def attention(name, width, norm=True):
        if norm:
            layer(f"{name}.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            layer(f"{name}.{part}", width, width)

    layer("conv_in", 32, 3, 3, 3)
    layer("time_embedding.linear_1", 128, 32)
    layer("time_embedding.linear_2", 128, 128)
    block("down_blocks.0.resnets.0", 32, 32)
    block("down_blocks.0.downsamplers.0", 32, 32)
    block("down_blocks.1.resnets.0", 32, 64)
    attention("down_blocks.1.attentions.0", 64)
    block("mid_block.resnets.0", 64, 64)
    # With scale and shift the middle attention has no norm.
    attention("mid_block.attentions.0", 64, norm=False)
    block("mid_block.resnets.1", 64, 64)
    # Stored features: 32 (stem), 32, 32 (resampled), 64.
    block("up_blocks.0.resnets.0", 64 + 64, 64)
    block("up_blocks.0.resnets.1", 64 + 32, 64)
    attention("up_blocks.0.attentions.0", 64)
    attention("up_blocks.0.attentions.1", 64)
    block("up_blocks.0.upsamplers.0", 64, 64)
    block("up_blocks.1.resnets.0", 64 + 32, 32)
    block("up_blocks.1.resnets.1", 32 + 32, 32)
    layer("conv_norm_out", 32)
    layer("conv_out", 3, 32, 3, 3)
    return shapes


CLAIMS = {name: Claim(shape) for name, shape in _names().items()}


class Zeros(Claim):
    """A tensor of zeros."""

    def read(self):
        return np.zeros(self.shape, self.dtype)


def test_every_tensor_of_the_layout_has_its_place():
    found = prepare(CLAIMS, CONFIG)
    assert found.net.middle.attention.norm is None
    assert found.net.middle.attention.heads == 4
    assert found.net.middle.block1.gain == 0.5
    assert found.net.down[0].blocks[0].gain == 1
    rule = from_json(found.plan.description["preconditioning"])
    assert isinstance(rule, VelocityPrediction)
    tensors = {name: Zeros(*claim) for name, claim in CLAIMS.items()}
    net = build(prepare(tensors, CONFIG))
    back = export.tensors(net, found.plan.architecture, FAMILIES["diffusers"])
    assert {name: array.shape for name, array in back.items()} == _names()
    image = jax.ShapeDtypeStruct((16, 16, 3), np.float32)
    out = jax.eval_shape(lambda net, x: net(x, 3.0, label=2), net, image)
    assert out.shape == (16, 16, 3)


def test_other_options_have_other_tensors():
    for change in (
        {"resnet_time_scale_shift": "default"},
        {"upsample_type": "conv"},
        {"attn_norm_num_groups": 8},
        {"num_class_embeds": None},
    ):
        with pytest.raises(MappingError):
            prepare(CLAIMS, CONFIG | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_embedding_type": "fourier"}, "'fourier' cannot be converted"),
        ({"act_fn": "mish"}, "act_fn = 'mish'"),
        ({"attn_norm_num_groups": 2}, "attn_norm_num_groups = 2"),
        ({"layers_per_block": 10**6}, "Correct layers_per_block"),
        ({"scheduler": {"num_train_timesteps": 10**9}}, "whole number from 1"),
        ({"scheduler": 7}, "scheduler = 7"),
        ({"down_block_types": ["SkipDownBlock2D"] * 2}, "type 'SkipDownBlock2D'"),
        ({"scheduler": {"prediction_type": "flow"}}, "prediction_type = 'flow'"),
        ({"scheduler": None}, "'scheduler' is needed"),
        ({"block_out_channels": None}, "'block_out_channels' is needed"),
    ],
)
def test_what_cannot_be_converted_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        prepare(CLAIMS, CONFIG | change)


def test_defaults_of_the_scheduler_predict_noise():
    found = prepare(CLAIMS, CONFIG | {"scheduler": {}})
    rule = from_json(found.plan.description["preconditioning"])
    assert type(rule) is NoisePrediction
