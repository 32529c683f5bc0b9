"""Maps learned from simulated pairs against the exact linear-Gaussian posterior."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffctl.diffusion import Euler, NoiseGrid
from diffctl.nets import Architecture
from diffctl.operators import GaussianNoise, Identity
from diffctl.priors import (
    ConditionalFlow,
    ConditionalNetwork,
    RegressionNetwork,
)
from diffctl.solvers import (
    AmortisedMean,
    AmortisedSample,
    ConditionalSampling,
    measurement_features,
    pinv_features,
    solve,
)
from diffctl.training import (
    ConditionalDenoisingLoss,
    ConditionalFlowLoss,
    RegressionLoss,
    Simulation,
    create_state,
    train,
)
from tests.solvers.bed import NOISE_STD, SIZE, bed, draws
from tests.solvers.generative.models import (
    AffineMap,
    AffineSampler,
    ExactConditional,
    posterior,
)
from tests.tolerances import EXACT64, stat

KEY = jax.random.key(24)


class Draws:
    """Clean signals of the bed's prior, a fresh batch for every step."""

    def batch(self, seed, step, size):
        rng = np.random.default_rng((seed, step))
        law = bed()
        x = (
            law.mean
            + rng.normal(size=(size, SIZE)) @ np.linalg.cholesky(law.covariance).T
        )
        return x, np.zeros(size, np.int32)


def exact_gain():
    """Return K and m - K A m of the posterior mean m + K (y - A m)."""
    law = bed()
    gram = law.matrix @ law.covariance @ law.matrix.T
    gram += NOISE_STD**2 * np.eye(law.y.size)
    gain = np.linalg.solve(gram, law.matrix @ law.covariance).T
    return gain, law.mean - gain @ law.matrix @ law.mean


def simulation():
    problem = bed().problem()
    return Simulation(
        operator=problem.operator, noise=problem.noise, features=measurement_features
    )


def _ignore(state, loss):
    del state, loss


@pytest.mark.usefixtures("x64")
def test_trained_regression_is_the_posterior_mean():
    """m + K (y - A m) within sampling error: 400 fresh batches of 256 pairs."""
    law = bed()
    start = AffineMap(gain=jnp.zeros((SIZE, law.y.size)), shift=jnp.zeros(SIZE))
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, 400))
    state = train(
        create_state(start, optimiser),
        Draws(),
        RegressionLoss(pairs=simulation()),
        optimiser,
        num_steps=400,
        batch_size=256,
        seed=0,
        on_step=_ignore,
    )
    gain, shift = exact_gain()
    # Measured 0.007; standard errors are about sqrt(S_ii / (400 * 256 / 4)) = 0.005.
    np.testing.assert_allclose(state.net.gain, gain, atol=0.02)
    np.testing.assert_allclose(state.net.shift, shift, atol=0.02)
    solver = AmortisedMean(features=measurement_features)
    found = solve(KEY, law.problem(), state.net, solver).x
    mean, _ = posterior(law, NOISE_STD, law.mean, law.covariance)
    np.testing.assert_allclose(found, mean, atol=0.03)


@pytest.mark.usefixtures("x64")
def test_the_least_regression_loss_is_the_trace_of_the_posterior_covariance():
    """At m + K (y - A m), tr S / d, and no gradient; n = 40000, k = 4."""
    law, num = bed(), 40_000
    gain, shift = exact_gain()
    net = AffineMap(gain=jnp.asarray(gain), shift=jnp.asarray(shift))
    images, labels = Draws().batch(1, 0, num)
    loss, slope = jax.jit(jax.value_and_grad(RegressionLoss(pairs=simulation())))(
        net, KEY, jnp.asarray(images), labels
    )
    _, covariance = posterior(law, NOISE_STD, law.mean, law.covariance)
    spread = np.sqrt(2 * np.sum(covariance**2)) / SIZE
    assert abs(float(loss) - np.trace(covariance) / SIZE) < spread * stat(num)
    # Error and features are independent; features have variance below 6.
    bound = 2 / SIZE * np.sqrt(np.max(np.diag(covariance)) * 6) * stat(num)
    assert np.max(np.abs(slope.gain)) < bound


@pytest.mark.usefixtures("x64")
def test_the_flow_loss_is_least_at_the_posterior():
    """There it is the entropy of the posterior, per entry, up to a constant."""
    law, num = bed(), 40_000
    gain, shift = (jnp.asarray(part) for part in exact_gain())
    _, covariance = posterior(law, NOISE_STD, law.mean, law.covariance)
    root = jnp.asarray(np.linalg.cholesky(covariance))
    net = AffineSampler(mean=AffineMap(gain=gain, shift=shift), root=root)
    images, labels = Draws().batch(1, 0, num)
    objective = ConditionalFlowLoss(pairs=simulation())
    loss, slope = jax.jit(jax.value_and_grad(objective))(
        net, KEY, jnp.asarray(images), labels
    )
    entropy = 0.5 + np.linalg.slogdet(covariance)[1] / (2 * SIZE)
    assert abs(float(loss) - entropy) < stat(num) / np.sqrt(2 * SIZE)
    # d loss / d root = -R^{-T} (E z z^T - I) / d: entries of variance at most 2.
    white = np.asarray(root).T @ np.asarray(slope.root) * SIZE
    assert np.max(np.abs(white)) < np.sqrt(2) * stat(num) * 1.5


@pytest.mark.usefixtures("x64")
def test_the_conditional_denoiser_is_the_textbook_one():
    """(C^-1 + I/sigma^2 + A^T A/s^2)^-1 (C^-1 m + x/sigma^2 + A^T y/s^2)."""
    law, sigma, x = bed(), 0.7, np.linspace(-1, 2, SIZE)
    oracle = ExactConditional(
        prior=law.prior(), matrix=jnp.asarray(law.matrix), noise_std=NOISE_STD
    )
    inverse = np.linalg.inv(law.covariance)
    system = (
        inverse + np.eye(SIZE) / sigma**2 + law.matrix.T @ law.matrix / NOISE_STD**2
    )
    rhs = inverse @ law.mean + x / sigma**2 + law.matrix.T @ law.y / NOISE_STD**2
    found = oracle.given(jnp.asarray(law.y)).denoise(jnp.asarray(x), sigma)
    np.testing.assert_allclose(found, np.linalg.solve(system, rhs), **EXACT64)


@pytest.mark.usefixtures("x64")
def test_conditional_sampling_is_the_flow_of_the_posterior():
    """Euler steps: factors (v + sigma sigma') / (v + sigma^2) for variances v of S."""
    law = bed()
    oracle = ExactConditional(
        prior=law.prior(), matrix=jnp.asarray(law.matrix), noise_std=NOISE_STD
    )
    sigma = np.append(np.geomspace(20.0, 0.01, 12), 0.0)
    solver = ConditionalSampling(
        grid=NoiseGrid.from_sigmas(sigma[:-1]),
        reverse=Euler(),
        features=measurement_features,
    )
    found = solve(KEY, law.problem(), oracle, solver).x
    start = np.sqrt(1 + sigma[0] ** 2) * draws(KEY, (SIZE,), 1)[0]
    mean, covariance = posterior(law, NOISE_STD, law.mean, law.covariance)
    variance, basis = np.linalg.eigh(covariance)
    factors = np.ones(SIZE)
    for now, next in itertools.pairwise(sigma):
        factors *= (variance + now * next) / (variance + now**2)
    expected = mean + basis @ (factors * (basis.T @ (start - mean)))
    np.testing.assert_allclose(found, expected, **EXACT64)


@pytest.mark.usefixtures("x64")
def test_an_affine_conditional_flow_samples_the_posterior():
    law, num = bed(), 4000
    gain, shift = (jnp.asarray(part) for part in exact_gain())
    mean, covariance = posterior(law, NOISE_STD, law.mean, law.covariance)
    root = jnp.asarray(np.linalg.cholesky(covariance))
    net = AffineSampler(mean=AffineMap(gain=gain, shift=shift), root=root)
    solver = AmortisedSample(features=measurement_features)
    keys = jax.random.split(KEY, num)
    x = jax.vmap(lambda key: solve(key, law.problem(), net, solver).x)(keys)
    std = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(np.mean(x, axis=0) - mean) < stat(num) * std)
    ratio = np.var(x, axis=0) / std**2
    assert np.all(np.abs(ratio - 1) < np.sqrt(2) * stat(num))


def test_the_forward_kl_covers_all_modes():
    """A Gaussian q fitted to a mixture by -E log q has its mean and covariance."""
    # The least -log q over affine maps without features is at the sample moments.
    rng = np.random.default_rng(3)
    modes = rng.integers(2, size=(20_000, 1)) * 2.0 - 1.0
    x = jnp.asarray(modes + 0.2 * rng.normal(size=(20_000, SIZE)), jnp.float32)
    centre, covariance = np.mean(x, axis=0), np.cov(np.asarray(x).T, bias=True)
    constant = AffineMap(
        gain=jnp.zeros((SIZE, bed().y.size)), shift=jnp.asarray(centre)
    )
    root = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)
    net = AffineSampler(mean=constant, root=root)
    objective = ConditionalFlowLoss(pairs=simulation())
    slope = jax.jit(jax.grad(objective))(net, KEY, x, None)
    # Gradients at the moments are rounding, relative to 1 / smallest std = 5.
    assert np.max(np.abs(slope.mean.shift)) < 1e-4
    assert np.max(np.abs(np.tril(slope.root))) < 1e-3
    assert np.all(np.diag(covariance) > 0.9), "it covers both modes at +1 and -1"


def test_the_conditional_denoising_loss_of_a_silent_network_is_one():
    """As for `DenoisingLoss`: with F = 0 and images of mean square s^2."""
    images = 0.5 * jnp.sign(jax.random.normal(KEY, (2000, 4, 4, 1)))
    objective = ConditionalDenoisingLoss(pairs=_identity_pairs())

    def silent(x, noise):
        assert x.shape == (4, 4, 2)
        return jnp.zeros_like(x)

    loss = jax.jit(lambda key: objective(silent, key, images, None))(KEY)
    assert abs(float(loss) - 1) < 2**0.5 * stat(images.size)


def _identity_pairs():
    return Simulation(
        operator=Identity(shape=(4, 4, 1)),
        noise=GaussianNoise(std=0.1),
        features=pinv_features,
    )


def test_networks_are_given_features_of_the_right_kind():
    pairs, shape = _identity_pairs(), (4, 4, 1)
    image = jnp.ones(shape)
    np.testing.assert_array_equal(pairs.problem(KEY, image).y, pairs(KEY, image))
    small = {"widths": (4,), "blocks": (1,), "embedding": 8, "groups": 2, "heads": 1}
    flow = {"size": 16, "couplings": 2, "width": 4, "context": 16}

    def apply(image):
        denoiser = ConditionalNetwork.create(
            Architecture.of("unet", channels=2, **small), shape, key=KEY
        )
        sampler = ConditionalFlow.create(
            Architecture.of("coupling_flow", **flow), shape, key=KEY
        )
        regression = RegressionNetwork.create(
            Architecture.of("small_regressor", width=4), shape, key=KEY
        )
        return (
            denoiser.given(image).denoise(image, jnp.asarray(0.5)),
            sampler.decode_given(jnp.zeros(sampler.latent_shape), image),
            regression.estimate(image),
        )

    assert [out.shape for out in jax.eval_shape(apply, image)] == [shape] * 3
