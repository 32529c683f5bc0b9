"""The rule on settings: what a project reads and the converter does not is an error."""

import itertools
import re
from collections.abc import Mapping

import pytest

from tests.weights_convert.fixture_networks import FOLDERS, files, ids, settings
from tests.weights_convert.test_families import Claim
from weights_convert.configs import CONFIGS
from weights_convert.convert import prepare
from weights_convert.families import FAMILIES, schedulers
from weights_convert.families.base import ConfigError
from weights_convert.families.scheduler_classes import (
    CONSISTENCY,
    DISCRETE,
    EDM,
    REFUSED,
)
from weights_convert.families.settings import Only, Settings, names
from weights_convert.readers import open_checkpoint

# A name by which the tensors of each family are recognised; more is never looked at.
MARKS = {
    "guided-diffusion": {
        "time_embed.0.weight": (8, 2),
        "input_blocks.0.0.weight": (2, 3, 3, 3),
        "out.2.weight": (3, 2, 3, 3),
        "middle_block.1.qkv.weight": (6, 2, 1),
    },
    "consistency": {
        "time_embed.0.weight": (8, 2),
        "input_blocks.0.0.weight": (2, 3, 3, 3),
        "out.2.weight": (3, 2, 3, 3),
        "middle_block.1.qkv.weight": (6, 2, 1, 1),
    },
    "guided-diffusion-classifier": {
        "time_embed.0.weight": (8, 2),
        "input_blocks.0.0.weight": (2, 3, 3, 3),
        "out.2.positional_embedding": (2, 5),
    },
    "edm": {"map_layer0.weight": (8, 2)},
    "ddpm": {"temb.dense.0.weight": (8, 2)},
    "diffusers": {"time_embedding.linear_1.weight": (8, 2)},
    "autoencoder-kl": {"encoder.conv_norm_out.weight": (2,)},
    "latent-diffusion": {"encoder.norm_out.weight": (2,)},
    "digits": {f"{n}.weight": (2,) for n in ("conv1", "conv2", "fc1", "fc2")},
}
# Where each family's configurations have settings: the top, and every section.
SECTIONS = {
    "guided-diffusion": ((), ("create_model",), ("unet_model",)),
    "consistency": ((), ("unet_model",), ("denoiser",)),
    "guided-diffusion-classifier": ((), ("encoder_unet_model",)),
    "edm": ((), ("init_kwargs",)),
    "ddpm": ((), ("data",), ("model",), ("diffusion",), ("config", "model")),
    "diffusers": ((), ("scheduler",)),
    "autoencoder-kl": ((),),
    "latent-diffusion": (
        (),
        ("ddconfig",),
        ("model",),
        ("model", "params"),
        ("first_stage_config",),
        ("model", "params", "first_stage_config", "params", "ddconfig"),
    ),
    "digits": ((), ("arguments",)),
}
ONLY = [
    (family.name, name, only.values)
    for family in FAMILIES.values()
    for name, only in family.declared.only.items()
]
CONVERTIBLE = [*DISCRETE, *EDM, *CONSISTENCY]


def _refused(family, config):
    """Return what a conversion with these settings is refused for."""
    claims = {name: Claim(shape) for name, shape in MARKS[family].items()}
    with pytest.raises(ConfigError) as caught:
        prepare(claims, config, family)
    return str(caught.value)


def _nested(place, settings):
    for name in reversed(place):
        settings = {name: settings}
    return settings


@pytest.mark.parametrize(
    ("family", "place"),
    [(family, place) for family in FAMILIES for place in SECTIONS[family]],
)
def test_an_unknown_setting_is_an_error_everywhere(family, place):
    message = _refused(family, _nested(place, {"sharpness": 3}))
    assert "sharpness = 3 is not known" in message and "--config" in message


@pytest.mark.parametrize(
    ("family", "name", "values"), ONLY, ids=[f"{f}-{n}" for f, n, _ in ONLY]
)
def test_a_setting_with_another_value_than_the_one_known_is_an_error(
    family, name, values
):
    message = _refused(family, {name: "another"})
    assert f"{name} = 'another' cannot be converted; only {values[0]!r}" in message
    for value in values:
        declared = FAMILIES[family].declared
        declared.check({name: value})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_setting_is_declared_once_and_with_a_reason(family):
    declared = FAMILIES[family].declared
    groups = [declared.read, declared.only, *declared.harmless.values()]
    for left, right in itertools.combinations(groups, 2):
        assert not set(left) & set(right)
    assert all(declared.harmless)
    declared.check(
        {name: object() for group in declared.harmless.values() for name in group}
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_the_built_in_settings_keep_the_rule(name):
    family = FAMILIES[CONFIGS[name].family]
    family.declared.check(family.settings(CONFIGS[name].settings))


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("ddpm", {"data": {"out_of_dist": False, "subset_1k": True}}),
        ("latent-diffusion", {"ddconfig": {"attn_type": "vanilla-xformers"}}),
        ("latent-diffusion", {"target": "sgm.models.autoencoder.AutoencoderKL"}),
        (
            "latent-diffusion",
            {"target": "sgm.models.autoencoder.AutoencoderKLInferenceWrapper"},
        ),
        (
            "latent-diffusion",
            {
                "first_stage_config": {},
                "v_posterior": 0.0,
                "original_elbo_weight": 0.0,
                "learn_logvar": False,
                "load_only_unet": False,
                "given_betas": [0.1],
            },
        ),
        ("diffusers", {"use_linear_projection": False, "_use_default_values": ["a"]}),
        ("diffusers", {"scheduler": {"_use_default_values": ["beta_start"]}}),
        ("guided-diffusion", {"use_spatial_transformer": False, "seed": 3}),
        *((family, {"anything": None}) for family in FAMILIES),
    ],
)
def test_settings_of_real_configurations_that_change_nothing_pass(family, config):
    FAMILIES[family].declared.check(FAMILIES[family].settings(config))


class Asked(Mapping):
    """A configuration that remembers which settings were looked at."""

    def __init__(self, settings):
        self.settings, self.names = settings, set()

    def __getitem__(self, name):
        self.names.add(name)
        return self.settings[name]

    def __iter__(self):
        return iter(self.settings)

    def __len__(self):
        return len(self.settings)


@pytest.mark.parametrize("folder", FOLDERS, ids=ids(FOLDERS))
def test_what_is_declared_as_read_is_read_and_nothing_else(folder):
    file = files(folder)[0]
    shapes = {k: tuple(t.shape) for k, t in open_checkpoint(file).tensors.items()}
    config = settings(folder, file)
    family = next(f for f in FAMILIES.values() if f.detect(shapes))
    asked = Asked(family.settings(config))
    family.plan(shapes, asked)
    declared = family.declared
    assert asked.names <= declared.names
    # Some are looked at only if another has a certain value.
    rarely = names(
        "classifier_resblock_updown resblock_updown channel_mult diffusion_steps "
        "num_heads num_head_channels steps distillation training_mode sigma_data "
        "sigma_min sigma_max beta_d beta_min epsilon_t M model_channels "
        "embedding_type encoder_type use_new_attention_order"
    )
    assert (declared.read & set(asked)) - rarely <= asked.names


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_schedulers_keep_the_rule(name):
    scheduler = {"_class_name": name}
    assert schedulers.prior(scheduler, learns_variance=False)["sigma_max"] > 1
    with pytest.raises(ConfigError, match="sharpness = 3 is not known"):
        schedulers.prior(scheduler | {"sharpness": 3}, learns_variance=False)
    for setting, only in schedulers.declared(scheduler).only.items():
        with pytest.raises(ConfigError, match=f"{setting} = 'another' cannot"):
            schedulers.prior(scheduler | {setting: "another"}, learns_variance=False)
        for value in only.values:
            schedulers.prior(scheduler | {setting: value}, learns_variance=False)


@pytest.mark.parametrize(
    "name",
    [
        *REFUSED,
        *("VQDiffusionScheduler", "HeliosScheduler", "PiflowScheduler", "Mine"),
    ],
)
def test_schedulers_that_cannot_be_converted_are_named(name):
    message = _refused("diffusers", {"scheduler": {"_class_name": name}})
    assert f"the scheduler {name} cannot be converted: it" in message
    assert "DDPMScheduler" in message


def test_networks_under_another_class_are_named():
    for family, name in (
        ("diffusers", "UNet2DConditionModel"),
        ("autoencoder-kl", "VQModel"),
        ("autoencoder-kl", "AsymmetricAutoencoderKL"),
    ):
        assert f"_class_name = {name!r}" in _refused(family, {"_class_name": name})
    message = _refused("guided-diffusion", {"class_name": "SuperResModel"})
    assert "second image" in message


def test_a_near_name_is_suggested():
    message = _refused("guided-diffusion", {"noise_shedule": "cosine"})
    assert "nearest name known: noise_schedule" in message


def test_values_are_compared_as_json_has_them():
    rule = Settings(owner="mine", only={"steps": Only(((1, (2, 3)),))})
    rule.check({"steps": [1, [2, 3]]})
    with pytest.raises(ConfigError, match=re.escape("mine: steps = [1, 2]")):
        rule.check({"steps": [1, 2]})
