"""Preconditionings against the exact denoiser of Gaussian data, which all must give."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.diffusion.betas import Betas
from diffctl.diffusion.discrete import DDPM
from diffctl.diffusion.schedules import VP
from diffctl.nets import Architecture
from diffctl.priors.network import (
    LearnedVarianceNetworkPrior,
    NetworkPrior,
    apply_preconditioned,
)
from diffctl.priors.preconditioning import (
    PRECONDITIONINGS,
    ConsistencyPreconditioning,
    EDMPreconditioning,
    NearestNoisePrediction,
    NoisePrediction,
    SamplePrediction,
    VelocityPrediction,
    VEPreconditioning,
    VPPreconditioning,
    from_json,
    to_json,
)
from tests.tolerances import EXACT32, EXACT64

DATA_STD = 0.7
LINEAR = DDPM.linear()


def _exact(x, sigma):
    """E[x0 | x0 + sigma eps = x] for x0 ~ N(0, DATA_STD^2)."""
    return x * DATA_STD**2 / (DATA_STD**2 + sigma**2)


def _discrete_sigma(timestep):
    return jnp.asarray(LINEAR.sigma(np.arange(1000.0)))[timestep.astype(int)]


def _unit_input(z, sigma):
    return z * jnp.sqrt(1 + sigma**2)


def _eps(z, sigma):
    """What a noise predictor sees and returns: input of variance one, E[eps | x]."""
    x = _unit_input(z, sigma)
    return (x - _exact(x, sigma)) / sigma


def _velocity(z, sigma):
    x = _unit_input(z, sigma)
    return (_eps(z, sigma) - sigma * _exact(x, sigma)) / jnp.sqrt(1 + sigma**2)


# Rule, the noise level that its label means, and what its network returns for it.
RULES = {
    "vp": (VPPreconditioning(), lambda label: VP().sigma(label / 999), _eps),
    "ve": (
        VEPreconditioning(),
        lambda label: 2 * jnp.exp(label),
        lambda x, sigma: (_exact(x, sigma) - x) / sigma,
    ),
    "noise": (NoisePrediction(), _discrete_sigma, _eps),
    "nearest": (NearestNoisePrediction(), _discrete_sigma, _eps),
    "velocity": (VelocityPrediction(), _discrete_sigma, _velocity),
    "sample": (
        SamplePrediction(),
        _discrete_sigma,
        lambda z, sigma: _exact(_unit_input(z, sigma), sigma),
    ),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.usefixtures("x64")
def test_an_ideal_network_gives_the_exact_denoiser(name):
    rule, sigma_of, ideal = RULES[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 1)))
    for index in (0, 3, 500, 999):
        sigma = jnp.asarray(LINEAR.sigma(index))
        found = apply_preconditioned(
            lambda z, label: ideal(z, sigma_of(label)), rule, x, sigma
        )
        chex.assert_trees_all_close(found, _exact(x, sigma), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_consistency_at_the_least_noise_is_the_identity():
    rule = ConsistencyPreconditioning(sigma_data=0.6, sigma_min=0.01)
    x = jnp.linspace(-1.0, 1.0, 4).reshape(2, 2, 1)
    found = apply_preconditioned(lambda z, _: 1e3 + z, rule, x, 0.01)
    chex.assert_trees_all_close(found, x, **EXACT64)
    # Far above it, it is the preconditioning of EDM.
    far = ConsistencyPreconditioning(sigma_min=0.0, noise_gain=0.25)
    chex.assert_trees_all_close(far(jnp.asarray(3.0)), EDMPreconditioning()(3.0))


@pytest.mark.parametrize("sigma", [0.05, 1.0, 80.0])
@pytest.mark.usefixtures("x64")
def test_coefficients_of_consistency_models_as_published(sigma):
    found = ConsistencyPreconditioning()(jnp.asarray(sigma))
    above, size = sigma - 0.002, np.hypot(sigma, 0.5)
    np.testing.assert_allclose(found.skip, 0.25 / (above**2 + 0.25), **EXACT64)
    np.testing.assert_allclose(found.out, 0.5 * above / size, **EXACT64)
    np.testing.assert_allclose(found.inside, 1 / size, **EXACT64)
    np.testing.assert_allclose(found.noise, 250 * np.log(sigma), **EXACT64)


@pytest.mark.parametrize("recipe", ["linear", "cosine", "scaled_linear"])
def test_time_steps_are_whole_at_trained_levels(recipe):
    """In float32 and exactly, so that an embedding sees what it was trained on."""
    rule = NoisePrediction(betas=Betas.of(recipe))
    levels = jnp.asarray(rule.levels(), jnp.float32)
    found = jax.vmap(rule.timestep)(levels)
    np.testing.assert_array_equal(found, np.arange(1000))


def test_time_steps_between_levels_are_fractional():
    rule = NoisePrediction()
    low, high = rule.levels()[41:43]
    between = rule.timestep(jnp.float32(np.sqrt(low * high)))
    np.testing.assert_allclose(between, 41.5, **EXACT32)
    assert rule.timestep(jnp.float32(1e-4)) == 0
    assert rule.timestep(jnp.float32(1e4)) == 999
    nearest = NearestNoisePrediction().timestep(jnp.float32(0.9 * low + 0.1 * high))
    assert nearest == 41


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_descriptions_build_the_same_rule(name):
    rule = PRECONDITIONINGS[name]()
    assert to_json(rule)["name"] == name
    again = from_json(to_json(rule))
    assert type(again) is type(rule)
    chex.assert_trees_all_equal(again, rule)
    assert jax.tree.structure(again) == jax.tree.structure(rule)


def _prior(kind, channels_out, **fields):
    level = {"width": 32, "blocks": 1}
    architecture = Architecture.of(
        "adm_unet", channels=[1, channels_out], width=32, levels=[level], **fields
    )
    leaves, structure = jax.tree.flatten(architecture.abstract())
    rng = np.random.default_rng(3)
    drawn = [jnp.asarray(0.2 * rng.normal(size=leaf.shape)) for leaf in leaves]
    return kind(
        net=jax.tree.unflatten(structure, drawn),
        preconditioning=NoisePrediction(),
        architecture=architecture,
        shape=(4, 4, 1),
    )


@pytest.fixture
def image():
    return jnp.asarray(np.random.default_rng(4).normal(size=(4, 4, 1)))


def test_a_learned_variance_is_split_off(image, tmp_path):
    prior = _prior(LearnedVarianceNetworkPrior, 2)
    sigma = jnp.float32(prior.preconditioning.levels()[500])
    x0_hat, fraction = jax.jit(lambda p, x: p.denoise_with_variance(x, sigma))(
        prior, image
    )
    raw = jax.jit(lambda net, x: net(x, jnp.float32(500.0)))(
        prior.net, image / jnp.sqrt(1 + sigma**2)
    )
    chex.assert_trees_all_close(x0_hat, image - sigma * raw[..., :1], **EXACT32)
    chex.assert_trees_all_close(fraction, (raw[..., 1:] + 1) / 2, **EXACT32)
    chex.assert_trees_all_close(prior.denoise(image, sigma), x0_hat, **EXACT32)
    prior.save(tmp_path / "prior")
    restored = NetworkPrior.restore(tmp_path / "prior")
    assert isinstance(restored, LearnedVarianceNetworkPrior)
    chex.assert_trees_all_equal(restored, prior)


def test_a_condition_reaches_the_network(image):
    prior = _prior(NetworkPrior, 1, classes=3)
    with pytest.raises(ValueError, match="knows 3 classes; label=None"):
        prior.denoise(image, 0.5)
    zero, one = (
        dataclasses.replace(prior, condition={"label": label}).denoise(image, 0.5)
        for label in (0, 1)
    )
    assert jnp.max(jnp.abs(zero - one)) > 1e-3
    weights = {"label": jnp.asarray([0.0, 1.0, 0.0])}
    same = dataclasses.replace(prior, condition=weights).denoise(image, 0.5)
    chex.assert_trees_all_close(same, one, **EXACT32)
