"""Networks as priors: exact inverses and determinants, files, and their training."""

import dataclasses
import functools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from diffctl.nets import Architecture, CouplingFlow
from diffctl.operators import BlockAverage, GaussianNoise
from diffctl.priors import (
    AutoencoderPrior,
    ConditionalNetwork,
    EDMPreconditioning,
    EnergyPrior,
    FlowPrior,
    GeneratorPrior,
    KLAutoencoder,
    LatentNetworkPrior,
    SeverityEncoderPrior,
    severity_loss,
)
from diffctl.priors.generative.latent_diffusion import UNIT_VARIANCE
from diffctl.priors.generative.networks import confined_energy
from diffctl.training import (
    AdversarialLoss,
    Adversaries,
    AutoencoderLoss,
    DenoisingLoss,
    FlowLoss,
    LatentDiffusionLoss,
    ScoreMatchingLoss,
    Simulation,
)
from tests.tolerances import EXACT32, EXACT64, REORDER32, stat

KEY = jax.random.key(31)
SHAPE = (4, 4, 1)
SMALL = {"size": 4, "channels": 1, "width": 2}
ARCHITECTURES = {
    GeneratorPrior: Architecture.of("small_decoder", latent=3, **SMALL),
    AutoencoderPrior: Architecture.of("small_autoencoder", latent=3, **SMALL),
    FlowPrior: Architecture.of("coupling_flow", size=16, couplings=3, width=4),
    EnergyPrior: Architecture.of("small_classifier", classes=1, **SMALL),
    LatentNetworkPrior: Architecture.of("small_latent_diffusion", latent=3, **SMALL),
}


@functools.cache
def make(kind):
    with jax.enable_x64(False):
        return jax.jit(lambda: kind.create(ARCHITECTURES[kind], SHAPE, key=KEY))()


def shaken(net, scale=0.3):
    """The network with noise on its parameters: fresh ones are nearly trivial."""
    leaves, structure = jax.tree.flatten(net)
    keys = jax.random.split(KEY, len(leaves))
    moved = [
        leaf + scale * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def latent_diffusion(seed=0, scale=0.3):
    """A prior with normal parameters; to draw them in JAX takes longer to compile."""
    architecture, rng = ARCHITECTURES[LatentNetworkPrior], np.random.default_rng(seed)
    net = jax.tree.map(
        lambda leaf: jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype),
        architecture.abstract(),
    )
    return LatentNetworkPrior(net=net, architecture=architecture, shape=SHAPE)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("size", "context"), [(6, None), (5, 3)])
def test_a_coupling_flow_is_a_bijection_with_the_stated_determinant(size, context):
    given = context and jax.random.normal(KEY, (context,))
    settings = {"size": size, "couplings": 3, "width": 4, "context": context or 0}
    flow = jax.jit(lambda: shaken(CouplingFlow(**settings, rngs=nnx.Rngs(0))))()
    z = jax.random.normal(KEY, (size,))

    @jax.jit
    def both(z):
        x, log_det = flow.forward(z, given)
        jacobian = jax.jacobian(lambda z: flow.forward(z, given)[0])(z)
        return x, log_det, jnp.linalg.slogdet(jacobian)[1], flow.inverse(x, given)

    x, log_det, exact, (back, inverse_log_det) = both(z)
    np.testing.assert_allclose(back, z, **EXACT64)
    np.testing.assert_allclose((log_det, -inverse_log_det), (exact, exact), **EXACT64)
    assert abs(exact) > 0.05
    # Every entry of x depends on every entry of z after three couplings.
    assert np.max(np.abs(x - z)) > 0.1


@pytest.mark.usefixtures("x64")
def test_the_density_of_a_flow_is_the_change_of_variables():
    prior = make(FlowPrior)
    x = jax.random.normal(KEY, SHAPE)

    @jax.jit
    def both(x):
        flat = jax.jacobian(lambda v: prior.invert(v.reshape(SHAPE))[0])(x.reshape(-1))
        z, _ = prior.invert(x)
        by_hand = jnp.sum(z**2) / 2 - jnp.linalg.slogdet(flat)[1]
        return prior.neg_log_density(x), by_hand, prior.decode(z)

    found, expected, back = both(x)
    np.testing.assert_allclose(found, expected, **EXACT64)
    np.testing.assert_allclose(back, x, **EXACT64)


def test_priors_come_back_from_disk(tmp_path):
    energy = dataclasses.replace(make(EnergyPrior), spread=2.5)
    architecture = Architecture.of(
        "unet", channels=2, widths=[4], blocks=[1], embedding=4, groups=2
    )
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), architecture.abstract()
    )
    denoiser = ConditionalNetwork(
        net=zeros,
        architecture=architecture,
        shape=SHAPE,
        preconditioning=EDMPreconditioning(sigma_data=0.3),
    )
    priors = [make(kind) for kind in (GeneratorPrior, AutoencoderPrior, FlowPrior)]
    for prior in [*priors, energy, denoiser, latent_diffusion()]:
        folder = tmp_path / type(prior).__name__
        prior.save(folder)
        again = type(prior).restore(folder)
        chex.assert_trees_all_equal(again, prior)
        chex.assert_trees_all_equal_structs(again, prior)
    assert EnergyPrior.restore(tmp_path / "EnergyPrior").spread == 2.5
    with pytest.raises(ValueError, match="describes a 'generator'"):
        FlowPrior.restore(tmp_path / "GeneratorPrior")


def _images(num):
    return 0.5 * jnp.sign(jax.random.normal(jax.random.key(32), (num, *SHAPE)))


def test_loss_of_the_identity_as_a_flow():
    """The identity: |x|^2 / 2d of the images with smoothing noise."""
    net = jax.tree.map(jnp.zeros_like, make(FlowPrior).net)
    loss = jax.jit(FlowLoss(smoothing=0.2))(net, KEY, _images(2000), None)
    spread = np.sqrt(0.25 * 0.04 + 0.04**2 / 2)
    assert abs(float(loss) - (0.25 + 0.04) / 2) < spread * stat(2000 * 16)


def test_loss_of_an_autoencoder_whose_encoder_says_nothing():
    """With q(z|x) = N(0, I) and G = 0: |x|^2 / 2 g^2 + log g, per pixel, and no KL."""
    net = jax.tree.map(jnp.zeros_like, make(AutoencoderPrior).net)
    net.log_std[...] = jnp.log(0.4)
    loss = jax.jit(AutoencoderLoss())(net, KEY, _images(8), None)
    chex.assert_trees_all_close(loss, 0.25 / (2 * 0.16) + jnp.log(0.4), **EXACT32)


def test_score_matching_is_least_for_the_energy_of_noisy_data():
    """Data N(0, v): energy |x|^2 / 2 (v + sigma^2), loss v / (v + sigma^2)."""
    variance, sigma, num = 0.3, 0.4, 20_000
    images = np.sqrt(variance) * jax.random.normal(jax.random.key(1), (num, 2, 2, 1))

    def loss(spread):
        objective = ScoreMatchingLoss(sigma=sigma, spread=spread)
        return objective(jnp.zeros_like, KEY, images, None)

    best = np.sqrt(variance + sigma**2)
    found, slope = jax.jit(jax.value_and_grad(loss))(best)
    # Per pixel a squared normal deviate of that mean.
    least = variance / best**2
    assert abs(float(found) - least) < np.sqrt(2) * least * stat(num * 4)
    assert abs(float(slope)) < 4 / best * stat(num * 4)


def test_each_adversary_sees_its_own_part_of_the_loss():
    """Gradients against those of the two games written out."""
    latent, penalty = 3, 0.3
    net = Adversaries(generator=make(GeneratorPrior).net, critic=make(EnergyPrior).net)
    images = _images(4)
    z = jax.vmap(lambda key: jax.random.normal(key, (latent,)))(
        jax.random.split(KEY, 4)
    )

    def judge(critic):
        return lambda x: critic(x)[0]

    def generator_loss(generator):
        judged = jax.vmap(judge(net.critic))(jax.vmap(generator)(z))
        return jnp.mean(jnp.log1p(jnp.exp(-judged)))

    def critic_loss(critic):
        real = jax.vmap(judge(critic))(images)
        fake = jax.vmap(judge(critic))(jax.vmap(net.generator)(z))
        slopes = jax.vmap(jax.grad(judge(critic)))(images)
        rough = penalty / 2 * jnp.sum(slopes**2, axis=(1, 2, 3))
        real, fake = jnp.log1p(jnp.exp(-real)), jnp.log1p(jnp.exp(fake))
        return jnp.mean(real + fake + rough)

    objective = AdversarialLoss(latent=latent, penalty=penalty)
    found = jax.jit(jax.grad(objective))(net, KEY, images, None)
    expected = jax.jit(
        lambda: (
            jax.grad(generator_loss)(net.generator),
            jax.grad(critic_loss)(net.critic),
        )
    )()
    chex.assert_trees_all_close((found.generator, found.critic), expected, **EXACT32)


def test_each_network_of_latent_diffusion_sees_its_own_part_of_the_loss():
    """Loss and its slope along one direction: the sums of those of the three losses.

    The slope of each is along its own network, with the autoencoder a constant.
    """
    prior, images = latent_diffusion(), _images(4)
    direction = latent_diffusion(seed=1).net
    pairs = Simulation(
        operator=BlockAverage.create(SHAPE, 2),
        noise=GaussianNoise(std=0.2),
        features=lambda problem: problem.y,
    )
    keys = jax.random.split(KEY, 3)

    def losses(net):
        latents = jax.vmap(net.autoencoder.encode)(images)[0]
        autoencoder = KLAutoencoder(net=net.autoencoder)

        def severity(encoder):
            with_encoder = SeverityEncoderPrior(
                autoencoder=autoencoder,
                latent=prior.latent,
                shape=SHAPE,
                severity_encoder=encoder,
            )

            def example(key, x):
                return severity_loss(with_encoder, x, pairs.problem(key, x).y)

            return jnp.mean(jax.vmap(example)(jax.random.split(keys[2], 4), images))

        return {
            "autoencoder": lambda net: AutoencoderLoss()(net, keys[0], images, None),
            "denoiser": lambda net: DenoisingLoss(preconditioning=UNIT_VARIANCE)(
                net, keys[1], latents, None
            ),
            "severity": severity,
        }

    @jax.jit
    def values_and_slopes(net, direction):
        whole = LatentDiffusionLoss(pairs=pairs)
        found = jax.jvp(lambda net: whole(net, KEY, images, None), (net,), (direction,))
        own = [
            jax.jvp(loss, (getattr(net, name),), (getattr(direction, name),))
            for name, loss in losses(net).items()
        ]
        return found, own

    found, own = values_and_slopes(prior.net, direction)
    np.testing.assert_allclose(found, np.sum(own, axis=0), **REORDER32)
    assert np.all(np.abs(own) > 1e-2)


def test_a_latent_diffusion_model_as_a_prior():
    """The denoiser is c_skip z + c_out F(c_in z); variances are positive."""
    z, sigma, y = jnp.asarray([0.3, -1.0, 2.0]), 0.7, jnp.full((2, 2, 1), -3.0)

    @jax.jit
    def both(prior):
        net = prior.net
        x = prior.decode(z)
        found = (prior.latent.denoise(z, jnp.asarray(sigma)), prior.encode(x))
        raw = net.denoiser(z / np.sqrt(1 + sigma**2), jnp.log(sigma) / 4)
        mean, _ = net.autoencoder.encode(net.autoencoder.decode(z))
        return found, (raw, mean), prior.estimate_latent(y)

    found, (raw, mean), (latent, variance) = both(latent_diffusion())
    total = 1 + sigma**2
    denoised = z / total + sigma / np.sqrt(total) * raw
    chex.assert_trees_all_close(found, (denoised, mean), **EXACT32)
    assert latent.shape == latent_diffusion().latent.shape == (3,)
    assert variance > 0


def test_an_energy_is_confined():
    energy = dataclasses.replace(make(EnergyPrior), spread=0.5)
    x = jnp.full(SHAPE, 0.3)
    found = energy.neg_log_density(x)
    expected = energy.net(x)[0] + 16 * 0.09 / (2 * 0.25)
    chex.assert_trees_all_close(found, expected, **EXACT32)
    chex.assert_trees_all_close(confined_energy(energy.net, x, 0.5), found)


def test_a_trained_flow_fits_the_moments_of_its_data():
    """200 steps of Adam on a correlated Gaussian: the loss falls to the entropy."""
    root = jnp.asarray([[0.8, 0.0], [0.6, 0.3]])
    shift = jnp.asarray([0.4, -0.2])
    settings = {"size": 2, "couplings": 2, "width": 8}
    net = jax.jit(lambda: CouplingFlow(**settings, rngs=nnx.Rngs(1)))()
    optimiser, objective = optax.adam(2e-2), FlowLoss(smoothing=0.0)

    def step(carry, key):
        net, state = carry
        noise = jax.random.normal(key, (128, 2))
        images = jnp.matmul(noise, root.T) + shift[None]
        loss, slope = jax.value_and_grad(objective)(net, key, images, None)
        updates, state = optimiser.update(slope, state, net)
        return (optax.apply_updates(net, updates), state), loss

    keys = jax.random.split(KEY, 200)
    run = jax.jit(partial(jax.lax.scan, step))
    _, losses = run((net, optimiser.init(net)), keys)
    entropy = 0.5 + np.log(0.8 * 0.3) / 2
    # The mean of 20 batches of 128 pairs; measured 0.014 above the entropy.
    assert abs(float(jnp.mean(losses[-20:])) - entropy) < 0.06
    assert losses[0] > entropy + 0.3
