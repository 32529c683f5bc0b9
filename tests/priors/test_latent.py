"""Latent priors on networks; linear ones are in the solvers' tests."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffctl.nets import Architecture
from diffctl.priors import (
    GaussianPrior,
    KLAutoencoder,
    LatentDiffusionPrior,
    LinearAutoencoder,
)
from diffctl.priors.storage import write_model
from diffctl.pytree import pytree_dataclass
from tests.tolerances import EXACT32, EXACT64

SHAPE = (4, 4, 1)
ARCHITECTURE = Architecture.of(
    "autoencoder_kl",
    channels=[1, 4, 2, 2],
    levels=[{"width": 4, "blocks": 1, "resample": None}],
    middle_heads=0,
    groups=2,
)


@pytest.fixture(scope="module")
def net():
    """The network with random numbers for parameters; to build it takes longer."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype),
        ARCHITECTURE.abstract(),
    )


@pytree_dataclass
class Halving:
    """Looks like a variational autoencoder."""

    offset: jax.Array

    def encode(self, x):
        return x[:2] / 2 - self.offset, jnp.zeros(2)

    def decode(self, z):
        return jnp.concatenate([2 * (z + self.offset), jnp.tanh(z[:1])])


def test_the_scale_is_on_both_sides():
    net, x = Halving(offset=jnp.asarray(0.3)), jnp.asarray([0.5, -1.0, 2.0])
    latent = GaussianPrior.from_moments(np.zeros(2), np.eye(2))
    prior = LatentDiffusionPrior.create(KLAutoencoder(net=net, scaling=0.2), latent)
    assert prior.shape == (3,)
    mean, _ = net.encode(x)
    np.testing.assert_allclose(prior.encode(x), 0.2 * mean, **EXACT32)
    np.testing.assert_allclose(
        prior.decode(prior.encode(x)), net.decode(mean), **EXACT32
    )


def test_units_of_each_channel_are_on_both_sides(net):
    """z = (mean - shift) scaling, as AutoencoderKL's pipelines have it."""
    scaling, shift = jnp.asarray([0.5, 4.0]), jnp.asarray([0.3, -1.0])
    found = KLAutoencoder(net=net, scaling=scaling, shift=shift)
    x = jnp.asarray(np.random.default_rng(2).normal(size=SHAPE), jnp.float32)
    mean, _ = net.encode(x)
    z = found.encode(x)
    np.testing.assert_allclose(
        z, (mean - shift[None, None]) * scaling[None, None], **EXACT32
    )
    expected = net.decode(z / scaling[None, None] + shift[None, None])
    np.testing.assert_allclose(found.decode(z), expected, **EXACT32)


@pytest.mark.parametrize("scaling", [0.3, [0.3, 0.7]])
@pytest.mark.parametrize("shift", [0.2, [0.2, -0.4]])
def test_units_are_stored_and_restored(net, tmp_path, scaling, shift):
    description = {"kind": "autoencoder", "architecture": ARCHITECTURE.to_json()}
    units = {"scaling_factor": scaling, "shift": shift}
    write_model(tmp_path / "stage", net, description | units)
    found = KLAutoencoder.restore(tmp_path / "stage")
    np.testing.assert_allclose(found.scaling, scaling, **EXACT32)
    np.testing.assert_allclose(found.shift, shift, **EXACT32)
    assert found.encode(jnp.zeros(SHAPE)).dtype == jnp.float32


def test_a_converted_autoencoder_keeps_its_scale(net, tmp_path):
    description = {
        "kind": "autoencoder",
        "architecture": ARCHITECTURE.to_json(),
        "scaling_factor": 0.18215,
    }
    write_model(tmp_path / "first_stage", net, description)
    found = KLAutoencoder.restore(tmp_path / "first_stage")
    assert found.scaling == 0.18215
    chex.assert_trees_all_equal(jax.tree.leaves(found.net), jax.tree.leaves(net))
    latent = GaussianPrior.from_moments(np.zeros((4, 4, 2)), np.eye(32))
    assert LatentDiffusionPrior.create(found, latent).shape == SHAPE


@pytest.mark.usefixtures("x64")
def test_a_linear_autoencoder_has_derivatives_in_its_decoder():
    """E = D^+ for orthonormal columns: dE = -E dD E + dD^T (I - D E)."""
    decoder = np.eye(4)[:, :2]
    change = np.random.default_rng(4).normal(size=(4, 2))

    def encoder(decoder):
        return LinearAutoencoder.from_decoder(decoder).encoder

    _, found = jax.jvp(encoder, (jnp.asarray(decoder),), (jnp.asarray(change),))
    e = decoder.T
    expected = -e @ change @ e + change.T @ (np.eye(4) - decoder @ e)
    np.testing.assert_allclose(found, expected, **EXACT64)
