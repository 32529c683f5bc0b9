"""Values of settings: taken as they are meant, or refused in words of the settings."""

import re

import pytest

from diffctl.priors.preconditioning import NoisePrediction, SamplePrediction, from_json
from tests.weights_convert.fixture_networks import FOLDERS, files, ids, settings
from tests.weights_convert.test_diffusers import CLAIMS, CONFIG
from tests.weights_convert.test_families import Claim, guided_shapes
from weights_convert.convert import detect, prepare
from weights_convert.families import guided, guided_prior, schedulers, sizes
from weights_convert.families.base import ConfigError
from weights_convert.families.diffusers_autoencoder import _units
from weights_convert.mapping import MappingError
from weights_convert.readers import open_checkpoint

GUIDED = {n: Claim(s) for n, s in guided_shapes(64, (1, 2), 1, {1}).items()}
GUIDED_CONFIG = {"image_size": 32, "num_head_channels": 64}
EDM, STEP = {"_class_name": "EDMEulerScheduler"}, "CMStochasticIterativeScheduler"
INTERNALS = re.compile(r"unsupported operand|NoneType|'str'|division|object|literal")


def _prior(scheduler):
    return schedulers.prior(scheduler, learns_variance=False)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(None, NoisePrediction), (True, NoisePrediction), (False, SamplePrediction)],
)
def test_only_false_means_that_the_image_is_predicted(value, kind):
    described = _prior({"predict_epsilon": value})["preconditioning"]
    assert type(from_json(described)) is kind


@pytest.mark.parametrize("value", ["False", "true", 0, 1])
def test_flags_are_true_or_false(value):
    message = f"= {value!r}; it must be true or false"
    for name in ("rescale_timesteps", "predict_xstart"):
        with pytest.raises(ConfigError, match=f"{name} {message}"):
            guided_prior.prior({name: value}, 3, 3)
    for name in ("use_new_attention_order", "rescale_timesteps"):
        with pytest.raises(ConfigError, match=f"{name} {message}"):
            prepare(GUIDED, GUIDED_CONFIG | {name: value})
    with pytest.raises(ConfigError, match=f"distillation {message}"):
        guided._is_student({"distillation": value})
    with pytest.raises(ConfigError, match=f"predict_epsilon {message}"):
        _prior({"predict_epsilon": value})
    for name in ("add_attention", "flip_sin_to_cos"):
        with pytest.raises(ConfigError, match=f"{name} {message}"):
            prepare(CLAIMS, CONFIG | {name: value})


def test_flags_that_are_null_are_not_given():
    null = dict.fromkeys(("rescale_timesteps", "predict_xstart"))
    settings = null | {"model_mean_type": "start_x", "steps": 500}
    described = guided_prior.prior(settings, 3, 3)["preconditioning"]
    assert type(from_json(described)) is SamplePrediction
    assert guided_prior.remarks(settings)


@pytest.mark.parametrize(
    ("claims", "config", "name"),
    [(CLAIMS, CONFIG, "sample_size"), (GUIDED, GUIDED_CONFIG, "image_size")],
)
@pytest.mark.parametrize("size", [0, -16, 15, 16.0, "16", True, [16], [16, "16"], {}])
def test_sizes_are_whole_and_can_be_halved(claims, config, name, size):
    with pytest.raises(ConfigError, match=f"{name} = .*; it must be ") as caught:
        prepare(claims, config | {name: size})
    assert not INTERNALS.search(str(caught.value))


def test_sizes_of_two_sides():
    assert prepare(CLAIMS, CONFIG | {"sample_size": [16, 24]}).plan.shape == (16, 24, 3)
    assert sizes.image_size({"resolution": 28}, "resolution", 3) == (28, 28)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (EDM | {"sigma_data": 0}, "sigma_data = 0; it must be a positive number"),
        (EDM | {"sigma_data": "0.5"}, "sigma_data = '0.5'; it must be a number"),
        (EDM | {"sigma_data": float("nan")}, "sigma_data = nan; it must be a number"),
        (EDM | {"sigma_min": 80.0}, "sigma_min = 80.0 and sigma_max = 80.0"),
        (EDM | {"sigma_min": 3, "sigma_max": 2}, "sigma_min = 3 and sigma_max = 2"),
        ({"_class_name": STEP, "sigma_min": -1}, "sigma_min = -1; it must be a pos"),
        ({"beta_start": "0.1"}, "beta_start = '0.1'; it must be a number"),
        ({"beta_end": True}, "beta_end = True; it must be a number"),
        ({"trained_betas": 0.1}, "trained_betas = 0.1; it must be a list"),
        ({"trained_betas": ["0.1"]}, "trained_betas[0] = '0.1'; it must be a number"),
        ({"num_train_timesteps": None}, "num_train_timesteps = None; it must be a"),
    ],
)
def test_noise_levels_are_numbers_in_order(scheduler, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        _prior(scheduler)


def test_numbers_that_are_null_are_not_given():
    names = ("sigma_data", "sigma_min", "sigma_max")
    assert _prior(EDM | dict.fromkeys(names)) == _prior(EDM)
    assert _prior(dict.fromkeys(("beta_start", "beta_end"))) == _prior({})


@pytest.mark.parametrize("value", [0, -1.0, "0.18", [0.18], float("inf")])
def test_the_scale_of_latents_is_a_positive_number(value):
    with pytest.raises(ConfigError, match=r"scaling_factor = .*; it must be a "):
        _units({"scaling_factor": value}, 4)


def test_the_units_of_latents_are_numbers():
    assert _units({"scaling_factor": None}, 4)["scaling_factor"] == 0.18215
    with pytest.raises(ConfigError, match="shift_factor = '0'; it must be a number"):
        _units({"shift_factor": "0"}, 4)
    with pytest.raises(ConfigError, match=r"latents_std\[0\] = None; it must be"):
        _units({"latents_mean": [0.0], "latents_std": [None]}, 1)


@pytest.mark.parametrize(
    ("claims", "config", "message"),
    [
        (CLAIMS, CONFIG | {"attention_head_dim": 48}, "= 48 does not divide the 64"),
        (CLAIMS, CONFIG | {"attention_head_dim": 128}, "= 128 does not divide the 64"),
        (CLAIMS, CONFIG | {"attention_head_dim": 0}, "attention_head_dim = 0; it must"),
        (CLAIMS, CONFIG | {"attention_head_dim": "8"}, "_head_dim = '8'; it must be"),
        (CLAIMS, CONFIG | {"block_out_channels": 64}, "_channels = 64; it must be a l"),
        (CLAIMS, CONFIG | {"block_out_channels": [32, None]}, "[1] = None; it must be"),
        (CLAIMS, CONFIG | {"down_block_types": ["a"]}, "must be a list of 2 types"),
        (CLAIMS, CONFIG | {"norm_eps": "1e-5"}, "norm_eps = '1e-5'; it must be a n"),
        (CLAIMS, CONFIG | {"mid_block_scale_factor": 0}, "scale_factor = 0; it must"),
        (CLAIMS, CONFIG | {"layers_per_block": -1}, "Correct layers_per_block"),
        (GUIDED, {"image_size": 32, "num_heads": 3}, "num_heads = 3 does not divide"),
        (GUIDED, {"image_size": 32, "num_heads": 0}, "num_heads = 0; it must be a w"),
        (GUIDED, {"image_size": 32, "num_head_channels": "64"}, "= '64'; it must be a"),
        (GUIDED, {"image_size": 32, "num_head_channels": 0}, "= 0; it must be a whole"),
        (
            GUIDED,
            {"image_size": 32, "num_heads": 4, "num_heads_upsample": 3},
            "num_heads_upsample = 3 does not divide",
        ),
        (GUIDED, GUIDED_CONFIG | {"channel_mult": "1,two"}, "channel_mult = '1,two'"),
    ],
)
def test_numbers_of_a_network_fit_it(claims, config, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        prepare(claims, config)
    assert not INTERNALS.search(str(caught.value))


@pytest.mark.parametrize("padding", ["same", {}, [1], -1, True])
def test_padding_is_a_whole_number(padding):
    shapes = {"conv1": (4, 1, 3, 3), "conv2": (8, 4, 3, 3), "fc1": (9, 392)}
    claims = {f"{n}.weight": Claim(s) for n, s in (shapes | {"fc2": (10, 9)}).items()}
    with pytest.raises(ConfigError, match=r"padding = .*; it must be a whole number"):
        prepare(claims, {"image_size": 28, "padding": padding})


def test_a_tensor_with_too_few_axes_is_named():
    for claims, config, name in [
        (CLAIMS, CONFIG, "conv_in.weight"),
        (GUIDED, GUIDED_CONFIG, "input_blocks.0.0.weight"),
    ]:
        with pytest.raises(MappingError) as caught:
            prepare(claims | {name: Claim((3,))}, config)
        assert f"{name} of shape (3,) does not fit" in str(caught.value)
        assert not INTERNALS.search(str(caught.value))


STRANGE = ["odd", [1], {"a": 1}, True, -1, 0, 1.5, float("nan"), float("inf"), 10**30]
STRANGE += [[], {}, "", [[1]], list(range(5000)), "x" * 5000]


@pytest.mark.parametrize("folder", FOLDERS, ids=ids(FOLDERS))
def test_strange_values_of_every_setting_are_told_in_words_of_the_settings(folder):
    """Or change nothing; nothing else than errors of settings and shapes is raised."""
    file = files(folder)[0]
    tensors = open_checkpoint(file).tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config, family = settings(folder, file), detect(shapes)
    flat = family.settings(config)
    scheduler = flat.get("scheduler")
    changed = [(flat, name) for name in family.declared.names - {"scheduler"}]
    changed += [(scheduler, name) for name in _NAMES] if scheduler else []
    for config, name in changed:
        for value in STRANGE:
            given = config | {name: value}
            whole = given if config is flat else flat | {"scheduler": given}
            try:
                family.declared.check(whole)
                family.plan(shapes, whole)
            except (ConfigError, MappingError) as error:
                assert not INTERNALS.search(str(error).replace("an object", "")), error
                assert len(str(error)) < 3000


_NAMES = ["beta_schedule", "beta_start", "num_train_timesteps", "prediction_type"]
_NAMES += ["variance_type", "trained_betas", "_class_name", "clip_sample", "what"]
