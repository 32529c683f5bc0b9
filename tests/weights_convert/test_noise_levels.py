"""Settings that say what a network was told and what it answers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion.discrete import DDPM
from diffctl.priors.preconditioning import (
    ConsistencyPreconditioning,
    EDMPreconditioning,
    NoisePrediction,
    SamplePrediction,
    from_json,
)
from tests.tolerances import EXACT32, EXACT64
from tests.weights_convert.test_families import PUBLIC, Claim
from weights_convert.convert import prepare
from weights_convert.families import FAMILIES, edm
from weights_convert.families.base import ConfigError
from weights_convert.families.ddpm import _betas as ddpm_betas
from weights_convert.families.diffusers_autoencoder import _units
from weights_convert.families.guided import _is_student

SHAPES, _ = PUBLIC["ffhq"]
CLAIMS = {tensor: Claim(shape) for tensor, shape in SHAPES.items()}
HEADS = {"image_size": 256, "num_head_channels": 64}


def _plan(**settings):
    return prepare(CLAIMS, HEADS | settings).plan


def _rule(**settings):
    return from_json(_plan(**settings).description["preconditioning"])


@pytest.mark.parametrize(("steps", "top"), [(1000, 157.407), (4000, 153.5)])
@pytest.mark.parametrize("name", ["diffusion_steps", "steps"])
def test_linear_variances_shrink_with_more_steps(steps, top, name):
    """openai/improved-diffusion has 4000; unscaled, they would end at 6e8."""
    plan = _plan(**{name: steps}, rescale_timesteps=False)
    np.testing.assert_allclose(plan.description["sigma_max"], top, rtol=1e-3)
    rule = from_json(plan.description["preconditioning"])
    expected = DDPM.linear(steps)
    np.testing.assert_allclose(
        rule.betas.schedule().integrated_rate, expected.integrated_rate, **EXACT64
    )


def test_a_thousand_steps_are_what_they_were():
    rule = _rule()
    assert (rule.betas.start, rule.betas.end) == (1e-4, 2e-2)
    assert rule.label_scale == 1.0


@pytest.mark.parametrize(
    ("steps", "schedule"), [(250, "linear"), (4000, "linear"), (4000, "cosine")]
)
def test_time_labels_run_to_a_thousand_where_they_are_rescaled(steps, schedule):
    settings = {"diffusion_steps": steps, "noise_schedule": schedule}
    plain = _rule(**settings, rescale_timesteps=False)
    scaled = _rule(**settings, rescale_timesteps=True)
    levels = jnp.asarray(plain.levels(), jnp.float32)
    index = np.arange(steps, dtype=np.float32)
    np.testing.assert_array_equal(jax.vmap(plain)(levels).noise, index)
    np.testing.assert_allclose(
        jax.vmap(scaled)(levels).noise, index * (1000 / steps), **EXACT32
    )


def test_what_two_projects_assume_differently_is_said():
    (remark,) = _plan(diffusion_steps=4000).remarks
    assert "rescale_timesteps is not given" in remark
    assert not _plan(diffusion_steps=4000, rescale_timesteps=True).remarks
    assert not _plan().remarks


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, NoisePrediction),
        ({"predict_xstart": False}, NoisePrediction),
        ({"predict_xstart": True}, SamplePrediction),
        ({"model_mean_type": "start_x"}, SamplePrediction),
        ({"model_mean_type": "epsilon"}, NoisePrediction),
    ],
)
def test_what_the_network_predicts_is_read(settings, kind):
    plan = _plan(**settings)
    assert type(from_json(plan.description["preconditioning"])) is kind
    assert plan.description["variance"] == "learned"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_schedule": "sigmoid"}, "noise_schedule = 'sigmoid' cannot"),
        ({"diffusion_steps": 20}, "needs 21 steps or more"),
        ({"model_mean_type": "previous_x"}, "'previous_x' with"),
        (
            {"model_mean_type": "start_x", "predict_xstart": False},
            "must not contradict",
        ),
        ({"learn_sigma": False}, "learn_sigma = False"),
        ({"class_cond": True}, "class_cond = True"),
        ({"out_channels": 3}, "out_channels = 3"),
        ({"create_model": 3}, "create_model = 3; it must be an object"),
        ({"model_var_type": "learned"}, "model_var_type = 'learned' cannot"),
    ],
)
def test_settings_of_guided_diffusion_that_cannot_be_converted(settings, message):
    with pytest.raises(ConfigError, match=message):
        _plan(**settings)


def test_networks_that_are_given_a_second_image_are_no_priors():
    shapes = SHAPES | {"input_blocks.0.0.weight": (128, 4, 3, 3)}
    claims = {tensor: Claim(shape) for tensor, shape in shapes.items()}
    with pytest.raises(ConfigError, match="takes 4 channels and returns 6"):
        prepare(claims, HEADS)


def test_settings_beside_a_section_are_read():
    """A section does not replace what stands beside it."""
    config = {"create_model": HEADS, "diffusion_steps": 4000, "rescale_timesteps": True}
    rule = from_json(prepare(CLAIMS, config).plan.description["preconditioning"])
    assert rule.label_scale == 0.25


@pytest.mark.parametrize(
    ("settings", "student"),
    [
        ({}, True),
        ({"training_mode": "consistency_training"}, True),
        ({"training_mode": "consistency_distillation"}, True),
        ({"training_mode": "progdist"}, False),
        ({"training_mode": "edm"}, False),
        ({"distillation": False}, False),
        ({"distillation": True, "training_mode": "edm"}, True),
    ],
)
def test_only_consistency_models_have_the_boundary_condition(settings, student):
    """As scripts/image_sample.py of openai/consistency_models decides."""
    assert _is_student(settings) is student


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", np.linspace(1e-3, 0.04, 50)),
        ("quad", np.linspace(1e-3**0.5, 0.04**0.5, 50) ** 2),
        ("const", np.full(50, 0.04)),
        ("sigmoid", 1e-3 + (0.04 - 1e-3) / (1 + np.exp(-np.linspace(-6, 6, 50)))),
    ],
)
def test_schedules_of_ddim_by_their_names(name, expected):
    config = {"beta_schedule": name, "beta_start": 1e-3, "beta_end": 0.04}
    found = ddpm_betas(config | {"num_diffusion_timesteps": 50}).values()
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.parametrize("name", ["jsd", "scaled_linear", "cosine"])
def test_schedules_that_ddim_does_not_have_or_that_end_in_noise_alone(name):
    with pytest.raises(ConfigError, match=f"beta_schedule = {name!r} cannot"):
        ddpm_betas({"beta_schedule": name})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"class_name": "EDMPrecond"}, (0.002, 80.0)),
        ({"class_name": "EDMPrecond", "sigma_min": 0, "sigma_max": 1e9}, (0.002, 80.0)),
        ({"class_name": "EDMPrecond", "sigma_min": 0.1, "sigma_max": 9}, (0.1, 9)),
        ({"class_name": "VEPrecond"}, (0.02, 100.0)),
        ({"class_name": "VEPrecond", "sigma_max": 50}, (0.02, 50)),
        ({"class_name": "VPPrecond"}, (0.002, 150.0)),
        # The variance is the exponential of 9.9 / 2 + 0.1, less one.
        ({"class_name": "VPPrecond", "beta_d": 9.9}, (0.002, 12.4508)),
        ({"class_name": "VPPrecond", "epsilon_t": 1e-2}, (0.044688, 150.0)),
    ],
)
def test_ranges_of_edm_stay_within_what_is_supported(settings, expected):
    found = edm._prior(settings, [3, 8, 3])
    ends = found["sigma_min"], found["sigma_max"]
    np.testing.assert_allclose(ends, expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["channel_mult", "encoder_type", "model_type"])
def test_more_of_edm_is_compared_with_the_file(name):
    arguments = {
        "size": 8,
        "channels": [3, 8, 3],
        "levels": [{"width": 8, "blocks": 1}, {"width": 16, "blocks": 1}],
        "inputs": {"classes": 0, "augment": 0},
        "embedding": {"kind": "fourier"},
        "encoder": "residual",
    }
    right = {
        "model_channels": 8,
        "channel_mult": [1, 2],
        "encoder_type": "residual",
        "model_type": "SongUNet",
    }
    edm._check(right, "song_unet", arguments)
    with pytest.raises(ConfigError, match=f"says {name} = "):
        edm._check(right | {name: "standard"}, "song_unet", arguments)


def test_units_of_latents_as_the_pipelines_compute_them():
    assert _units({}, 4) == {"scaling_factor": 0.18215, "shift": 0.0}
    found = _units({"scaling_factor": 1.5, "shift_factor": 0.06}, 16)
    assert found == {"scaling_factor": 1.5, "shift": 0.06}
    statistics = {"latents_mean": [1.0, 2.0], "latents_std": [0.5, 4.0]}
    found = _units({"scaling_factor": 0.5} | statistics, 2)
    assert found == {"scaling_factor": [1.0, 0.125], "shift": [1.0, 2.0]}


@pytest.mark.parametrize(
    "settings",
    [
        {"latents_mean": [1.0, 2.0]},
        {"latents_std": [1.0, 2.0]},
        {"latents_mean": [1.0, 2.0], "latents_std": [1.0, 2.0], "shift_factor": 0.1},
        {"latents_mean": [1.0], "latents_std": [1.0]},
        {"latents_mean": [1.0, 2.0], "latents_std": [1.0, 0.0]},
    ],
)
def test_units_of_latents_that_are_not_clear(settings):
    with pytest.raises(ConfigError, match="latents_mean"):
        _units(settings, 2)


def test_rules_of_older_folders_have_labels_as_they_are():
    described = {"name": "noise_prediction", "betas": NoisePrediction().betas.to_json()}
    chex.assert_trees_all_equal(from_json(described), NoisePrediction())
    for kind in (EDMPreconditioning, ConsistencyPreconditioning):
        assert not hasattr(kind(), "label_scale")
    assert set(FAMILIES) >= {"guided-diffusion", "edm"}
